"""What is refused before a request is read: without a key, for another host, too large or too slow."""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from hmac import compare_digest
from typing import Any

from unmask.serving.limits import Limits

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class Guard:
    """Checks the head of each request, and reads its body within the limits.

    Args:
        app: that gets what is not refused.
        limits: bytes and seconds of a request.
        keys: one of which is needed, if there are any.
        hosts: that a request may name, if there are any.
        free: paths that need no key.
    """

    def __init__(
        self, app: Any, limits: Limits, keys: tuple[str, ...], hosts: tuple[str, ...], free: tuple[str, ...]
    ) -> None:
        self.app, self.limits, self.hosts, self.free = app, limits, hosts, free
        self.keys = [key.encode() for key in keys]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with an error."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").rpartition("]")
        name = (host[0] + host[1]) or host[2].partition(":")[0]
        if self.hosts and name not in self.hosts:
            await refuse(send, 400, f"this server is not {name[:60]!r}, but {', '.join(self.hosts)}")
            return
        if self.keys and scope["path"] not in self.free and not self._knows(headers):
            await refuse(send, 401, "a key is needed: Authorization: Bearer KEY")
            return
        body = await self._read(headers, receive)
        if isinstance(body, tuple):
            await refuse(send, *body)
            return
        await self.app(scope, replay(body, receive), with_headers(send))

    def _knows(self, headers: dict[bytes, bytes]) -> bool:
        """Return whether a request has one of the keys; takes as long whichever it is."""
        kind, _, key = headers.get(b"authorization", b"").partition(b" ")
        return kind.lower() == b"bearer" and sum(compare_digest(key.strip(), known) for known in self.keys) > 0

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | tuple[int, str]:
        """Return the body, or why it is refused."""
        most, body = self.limits.bytes, bytearray()
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and (len(length) > 18 or int(length) > most):
            return 413, f"the body has more than {most} bytes"
        try:
            async with asyncio.timeout(self.limits.seconds):
                while True:
                    message = await receive()
                    body += message.get("body", b"")
                    if len(body) > most:
                        return 413, f"the body has more than {most} bytes"
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            return 408, f"the body did not arrive within {self.limits.seconds:g} seconds"


def replay(body: bytes, receive: Receive) -> Receive:
    """Return what gives the body at once, then what comes after it."""
    parts = [body]

    async def again() -> Message:
        if parts:
            return {"type": "http.request", "body": parts.pop(), "more_body": False}
        return await receive()

    return again


def with_headers(send: Send) -> Send:
    """Return what adds the headers that every answer has."""

    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *HEADERS]
        await send(message)

    return add


async def refuse(send: Send, status: int, message: str) -> None:
    """Answer with an error."""
    headers = [(b"content-type", b"application/json"), *HEADERS]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"error": message}).encode()})
