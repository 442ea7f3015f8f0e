"""Responses that fit in memory: heads, whole responses, and waiting for earlier responses to be sent.

aiohttp parses the requests and keeps the connections; the mirror writes the responses. The head of a hit is always the
same bytes apart from the Date, so it is rendered once and cached. `response_writer` streams blobs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import web

from mirror.server.connections import Connection

_POLL_INTERVAL = 0.02  # seconds between two checks of the transport's write buffer
_REASONS = {status.value: status.phrase for status in HTTPStatus}
Headers = Iterable[tuple[str, str]]


class ClientGone(Exception):
    """The client has disconnected, or no longer reads its response."""


class WrittenResponse(web.StreamResponse):
    """A response that is already on the connection: tells aiohttp only whether another request may follow."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._allows_next_request = keep_alive

    @property
    def keep_alive(self) -> bool:
        return self._allows_next_request

    async def prepare(self, request: web.BaseRequest) -> None:  # noqa: ARG002
        return None

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002
        return None


_KEEP_ALIVE, _CLOSE = WrittenResponse(keep_alive=True), WrittenResponse(keep_alive=False)


def written_response(*, keep_alive: bool) -> WrittenResponse:
    """Return one of two shared instances: they hold no state of a request."""
    return _KEEP_ALIVE if keep_alive else _CLOSE


class _DateHeader:
    """The Date header (RFC 9110, 6.6.1), rendered once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._rendered = b""

    def line(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second, self._rendered = second, f"Date: {formatdate(second, usegmt=True)}\r\n".encode()
        return self._rendered


_date = _DateHeader()


def render(status: int, headers: Headers) -> bytes:
    """Return the status line and *headers*; `head_end` adds Date, Connection and the empty line.

    Raises:
        ValueError: if a header value has characters that are not printable, such as a line break.
    """
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}"]
    for name, value in headers:
        if not value.isprintable():
            raise ValueError(f"{name} can't be sent: {value!r}")
        lines.append(f"{name}: {value}")
    return "\r\n".join((*lines, "")).encode("utf-8")


def not_modified(head: bytes) -> bytes:
    """Return the head of the 304 response for content whose 200 response has this *head* (RFC 9110, 15.4.5)."""
    return b"HTTP/1.1 304 Not Modified" + head[head.index(b"\r\n") :]


def head_end(request: web.BaseRequest) -> bytes:
    """Return the end of every head: Date, Connection where it is needed, and the empty line."""
    if not request.keep_alive:
        return _date.line() + b"Connection: close\r\n\r\n"
    if request.version < (1, 1):
        return _date.line() + b"Connection: keep-alive\r\n\r\n"
    return _date.line() + b"\r\n"


def answer(request: web.BaseRequest, head: bytes, body: bytes = b"") -> WrittenResponse:
    """Write a whole response; for HEAD without *body*.

    Raises:
        ClientGone: if the connection is closed.
    """
    transport = request.transport
    if transport is None:
        raise ClientGone
    transport.write(b"".join((head, head_end(request), b"" if request.method == "HEAD" else body)))
    return written_response(keep_alive=request.keep_alive)


async def drained(request: web.BaseRequest, *, limit: int) -> None:
    """Wait until at most *limit* bytes of earlier responses on the connection of *request* are unsent.

    Only a client that pipelines requests without reading the responses has to wait. The limit bounds the memory that
    its responses occupy in this process.

    Raises:
        ClientGone: if the client acknowledges no bytes for `limits.unread` seconds.
    """
    since, previous = 0.0, -1
    while (transport := request.transport) is not None and transport.get_write_buffer_size() > limit:
        connection = request.protocol
        assert isinstance(connection, Connection)  # noqa: S101
        now, acknowledged = asyncio.get_running_loop().time(), connection.acknowledged_bytes()
        if acknowledged != previous:
            since, previous = now, acknowledged
        elif now - since > connection.limits.unread:
            transport.abort()
            raise ClientGone
        await asyncio.sleep(_POLL_INTERVAL)
