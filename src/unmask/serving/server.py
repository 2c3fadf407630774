"""Running the server."""

import socket
import sys
from collections.abc import Mapping, Sequence

import uvicorn

from unmask.model import MaskedDiffusion
from unmask.serving.address import is_loopback, listen
from unmask.serving.app import create_app
from unmask.serving.limits import Limits

LOCAL = ("localhost", "127.0.0.1", "[::1]")


def serve(
    models: MaskedDiffusion | Mapping[str, MaskedDiffusion],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    keys: Sequence[str] = (),
    listening: socket.socket | None = None,
) -> None:
    """Serve models until interrupted: a page in the browser, and an HTTP API (`create_app`).

    Args:
        models: by name, or one alone.
        host: an address of this machine; from the default one only this machine itself can reach the server.
        port: 0: any that is free.
        limits: what is refused.
        keys: one of which every request to the API must have; none: no key is needed.
        listening: a socket in place of host and port, as `listen` returns it.

    Raises:
        OSError: the port is in use, or there is no such address.
        ValueError: there is no model.

    Example:
        serve({"digits": unmask.load("runs/digits")}, port=0)
    """
    limits = limits or Limits()
    listening = listening or listen(host, port)
    host, port = listening.getsockname()[:2]
    local = is_loopback(host)
    shown = f"[{host}]" if ":" in host else host
    app = create_app(models, limits=limits, keys=keys, hosts=(*LOCAL, shown) if local else ())
    if not local and not keys:
        print("unmask: warning: whoever reaches this machine can use the models: give keys", file=sys.stderr)
    print(f"http://{shown}:{port}", flush=True)
    most = 2 * limits.queue + 64  # connections, the page's own among them
    settings = uvicorn.Config(app, log_level="warning", limit_concurrency=most, timeout_graceful_shutdown=3)
    with listening:
        uvicorn.Server(settings).run(sockets=[listening])
