"""The wire: how an answer gets onto a connection.

aiohttp reads the requests and keeps the connections; answers are written here. The head of a hit is the same bytes
each time and is rendered once. What is too large for memory goes through a channel (see channels).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import web

from mirror.server.connections import Connection

_LOOK_AGAIN = 0.02  # seconds
_REASONS = {status.value: status.phrase for status in HTTPStatus}
Headers = Iterable[tuple[str, str]]


class ClientGone(Exception):
    """The client left, or takes nothing any more."""


class Sent(web.StreamResponse):
    """Tells aiohttp that the answer is on the connection already, and whether another request may follow."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._lives = keep_alive

    @property
    def keep_alive(self) -> bool:
        return self._lives

    async def prepare(self, request: web.BaseRequest) -> None:  # noqa: ARG002
        return None

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002
        return None


_KEPT, _CLOSED = Sent(keep_alive=True), Sent(keep_alive=False)


def sent(*, keep_alive: bool) -> Sent:
    """The one or the other; they hold nothing of their request."""
    return _KEPT if keep_alive else _CLOSED


class _Date:
    """The Date header, rendered once a second (RFC 9110, 6.6.1)."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second, self._line = second, f"Date: {formatdate(second, usegmt=True)}\r\n".encode()
        return self._line


_date = _Date()


def render(status: int, headers: Headers) -> bytes:
    """A head, but for its end: Date and Connection are the connection's."""
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}"]
    for name, value in headers:
        if not value.isprintable():
            raise ValueError(f"{name} can't be sent: {value!r}")
        lines.append(f"{name}: {value}")
    return "\r\n".join((*lines, "")).encode("utf-8")


def not_modified(head: bytes) -> bytes:
    """The head of a 304 for content whose 200 has this *head* (RFC 9110, 15.4.5)."""
    return b"HTTP/1.1 304 Not Modified" + head[head.index(b"\r\n") :]


def answer(request: web.BaseRequest, head: bytes, body: bytes = b"") -> Sent:
    """Sends a whole answer."""
    transport = request.transport
    if transport is None:
        raise ClientGone
    transport.write(b"".join((head, ending(request), b"" if request.method == "HEAD" else body)))
    return sent(keep_alive=request.keep_alive)


async def taken(request: web.BaseRequest, *, most: int) -> None:
    """Waits until the client has taken all but *most* bytes of what was answered on its connection before.

    Only a client that asks on without reading has any left; it waits here, and not in our memory.

    Raises:
        ClientGone: it takes nothing.
    """
    since, progress = 0.0, -1
    while (transport := request.transport) is not None and transport.get_write_buffer_size() > most:
        connection = request.protocol
        assert isinstance(connection, Connection)  # noqa: S101
        now, taken = asyncio.get_running_loop().time(), connection.taken()
        if taken != progress:
            since, progress = now, taken
        elif now - since > connection.limits.unread:
            transport.abort()
            raise ClientGone
        await asyncio.sleep(_LOOK_AGAIN)


def ending(request: web.BaseRequest) -> bytes:
    """What every head ends with."""
    if not request.keep_alive:
        return _date.line() + b"Connection: close\r\n\r\n"
    if request.version < (1, 1):
        return _date.line() + b"Connection: keep-alive\r\n\r\n"
    return _date.line() + b"\r\n"
