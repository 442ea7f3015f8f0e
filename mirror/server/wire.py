"""The wire: how an answer gets onto a connection.

aiohttp reads the requests and keeps the connections; answers are written here. The head of a hit is the same bytes
each time and is rendered once; a blob goes from file to socket in the kernel (sendfile). uvloop has no sendfile of its
own, so the bytes pass it by on a second descriptor of the connection's socket.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus
from types import TracebackType
from typing import Self

from aiohttp import web

from mirror.errors import StorageFailed, UpstreamCut
from mirror.storage import Readable

_STRETCH = 2**20  # bytes to send before looking at the page cache again
_STALLED = 300.0  # seconds without a byte taken, after which a client counts as gone
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
    transport.write(b"".join((head, _end(request), b"" if request.method == "HEAD" else body)))
    return sent(keep_alive=request.keep_alive)


async def taken(request: web.BaseRequest, *, most: int) -> None:
    """Waits until the client has taken all but *most* bytes of what was answered on its connection before.

    Only a client that asks on without reading has any left; it waits here, and not in our memory.

    Raises:
        ClientGone: it takes nothing.
    """
    patience = _STALLED
    while (transport := request.transport) is not None and transport.get_write_buffer_size() > most:
        await asyncio.sleep(_LOOK_AGAIN)
        patience -= _LOOK_AGAIN
        if patience < 0:
            transport.abort()
            raise ClientGone


def _end(request: web.BaseRequest) -> bytes:
    if not request.keep_alive:
        return _date.line() + b"Connection: close\r\n\r\n"
    if request.version < (1, 1):
        return _date.line() + b"Connection: keep-alive\r\n\r\n"
    return _date.line() + b"\r\n"


class Channel:
    """A connection's socket, for one answer that is too large for memory.

    Raises:
        ClientGone: from its context, whenever it shows that nobody listens any more.
    """

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket
        self.begun = False
        self.sent = 0  # bytes of content

    async def __aenter__(self) -> Self:
        await taken(self._request, most=0)
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ClientGone
        own: socket.socket = transport.get_extra_info("socket")
        self._socket = socket.fromfd(own.fileno(), own.family, own.type)
        self._socket.setblocking(False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        if isinstance(error, OSError) and error.errno == errno.EIO:
            raise StorageFailed(f"the disk failed: {error.strerror}") from error
        if isinstance(error, OSError):
            raise ClientGone from error

    async def head(self, head: bytes, *, more: bool) -> None:
        """Sends the head; in one packet with content, if *more* is to follow."""
        self.begun = True
        await self._send(memoryview(head + _end(self._request)), socket.MSG_MORE if more else 0)

    async def say(self, framing: bytes) -> None:
        """Sends what is no content."""
        await self._send(memoryview(framing), 0)

    async def write(self, content: bytes) -> None:
        """Sends content that is in memory."""
        await self._send(memoryview(content), 0)
        self.sent += len(content)

    async def _send(self, content: memoryview, flags: int) -> None:
        while content:
            try:
                content = content[self._socket.send(content, flags) :]
            except BlockingIOError:
                await self._writable()

    async def copy(self, readable: Readable, start: int, end: int) -> None:
        """Sends content from *start* up to *end*, as it becomes readable.

        Raises:
            MirrorError: it ends too early.
        """
        while start < end:
            reach = min(await readable.reach(start), end)
            while start < reach:
                sent = await self._copy(readable.fileno(), start, min(reach - start, _STRETCH))
                if not sent:
                    raise UpstreamCut("the file ended before the blob")
                start += sent
                self.sent += sent

    async def _copy(self, file: int, start: int, count: int) -> int:
        while True:
            try:
                if _is_in_memory(file, start + count - 1):
                    return os.sendfile(self._socket.fileno(), file, start, count)
                # The disk would stop the loop, and with it everybody else.
                return await self._copy_on_thread(file, start, count)
            except BlockingIOError:
                await self._writable()

    async def _copy_on_thread(self, file: int, start: int, count: int) -> int:
        """Comes back only when the thread has: until then nobody may close the descriptors that it uses."""
        sending = self._loop.run_in_executor(None, os.sendfile, self._socket.fileno(), file, start, count)
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            await asyncio.wait([sending])
            raise

    async def _writable(self) -> None:
        ready = self._loop.create_future()
        self._loop.add_writer(self._socket, _wake, ready)
        try:
            async with asyncio.timeout(_STALLED):
                await ready
        except TimeoutError as error:
            raise ClientGone from error
        finally:
            self._loop.remove_writer(self._socket)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _is_in_memory(file: int, offset: int) -> bool:
    """Whether the byte at *offset* can be read without waiting for the disk."""
    try:
        os.preadv(file, [bytearray(1)], offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:  # a file system that can't tell
        return True
    return True
