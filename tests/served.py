"""Small models, and servers of them, for the tests of `unmask.serving`."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import uvicorn

import unmask
from unmask.model import MaskedDiffusion
from unmask.networks.transformer import Transformer
from unmask.serving.address import listen
from unmask.serving.app import create_app


def small(codec: unmask.Codec, shape: tuple[int, ...], about: Mapping[str, Any] | None = None, **settings: Any) -> Any:
    """Return a small model with random weights, whose predictions depend on what it sees."""
    network = Transformer(codec.vocab_size, shape, width=16, depth=1, heads=2, **settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return MaskedDiffusion(network, codec, about=dict(about or {})).eval()


def letters() -> MaskedDiffusion:
    return small(unmask.Characters("abcdefgh "), (24,))


def pictures() -> MaskedDiffusion:
    return small(unmask.Pixels(4), (4, 4, 1), {"class_names": ["plus", "ring", "dot"]}, classes=3)


@contextmanager
def running(models: Any, **settings: Any) -> Iterator[tuple[str, int]]:
    """Serve models on loopback; yield host and port."""
    app = create_app(models, **settings)
    with listen("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[:2]
        finally:
            server.should_exit = True
            thread.join()
