"""The streaming response writer: sends a blob to a connection as fast as the client reads it.

Over plain TCP the kernel sends a blob from the file to the socket (sendfile). uvloop has no sendfile, so the writer
bypasses it with a second file descriptor of the connection's socket. Over TLS the bytes go through the transport, piece
by piece: each piece is written when the previous one has left this process.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Self

from aiohttp import web

from mirror.errors import MirrorError, StorageFailed, UpstreamDisconnected
from mirror.server.connections import Connection, wake
from mirror.server.response import ClientGone, drained, head_end
from mirror.storage.protocols import Readable

_MAX_CHUNK = 2**19  # bytes to send before the event loop runs other tasks and the page cache is checked again
_ITERATION_BYTES = 2**23  # bytes that all responses together send in one iteration of the event loop
_MIN_PIECE = 64 * 2**10  # bytes: the first piece of a response, and every piece once _ITERATION_BYTES are used up
_MAX_PIECE = 2**20  # bytes: pieces written to a TLS transport grow to this size for a fast client
_FAST_WRITE = 0.1  # seconds: a client is fast if it receives a piece within this time
_DESCRIPTORS_EXHAUSTED = {errno.EMFILE, errno.ENFILE}


class _IterationBudget:
    """Bytes that may still be sent in this iteration of the event loop.

    Without it, some hundred responses that start together would block the loop for all other connections.
    """

    def __init__(self) -> None:
        self._spent = 0

    def take(self, loop: asyncio.AbstractEventLoop, wanted: int) -> int:
        """Return how many of the *wanted* bytes to send now."""
        if not self._spent:
            loop.call_soon(self._reset)
        granted = wanted if self._spent < _ITERATION_BYTES else min(wanted, _MIN_PIECE)
        self._spent += granted
        return granted

    def _reset(self) -> None:
        self._spent = 0


_budget = _IterationBudget()


class ResponseWriter(ABC):
    """A streaming writer of one response to one connection, used as an async context manager.

    Attributes:
        head_written: whether the head has been written, so that no error response is possible any more.
        sent: the bytes of content written so far.

    Raises:
        ClientGone: from any method or from the context, if the client has disconnected or does not read.
    """

    def __init__(self, request: web.BaseRequest, connection: Connection) -> None:
        self._request = request
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self.head_written = False
        self.sent = 0

    async def __aenter__(self) -> Self:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ClientGone
        await self._open(transport)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(failed=error is not None)
        if isinstance(error, OSError) and error.errno == errno.EIO:
            raise StorageFailed(f"the disk failed to return stored content: {error.strerror}; pull again") from error
        if isinstance(error, OSError):
            raise ClientGone from error

    async def head(self, head: bytes, *, more: bool) -> None:
        """Write the head; if *more* content follows, in one packet with its beginning."""
        self.head_written = True
        await self._send(memoryview(head + head_end(self._request)), more=more)

    async def write_framing(self, framing: bytes) -> None:
        """Write multipart boundaries and part headers, which do not count as content."""
        await self._send(memoryview(framing))

    async def write(self, content: bytes) -> None:
        """Write content from memory."""
        await self._send(memoryview(content))
        self.sent += len(content)

    async def send_file(self, readable: Readable, start: int, end: int) -> None:
        """Write the content from *start* up to *end*, as it becomes readable.

        Raises:
            MirrorError: if the content ends before *end*.
        """
        chunk = _MIN_PIECE
        while start < end:
            reach = min(await readable.reach(start), end)
            while start < reach:
                count = _budget.take(self._loop, min(reach - start, chunk))
                sent = await self._send_file(readable.fileno(), start, count)
                chunk = min(2 * chunk, _MAX_CHUNK)
                if not sent:
                    raise UpstreamDisconnected("the file ended before the blob: pull again")
                start += sent
                self.sent += sent
                # Yield to the other responses: each fills megabytes of socket buffer before it would block.
                await asyncio.sleep(0)

    @abstractmethod
    async def _open(self, transport: asyncio.Transport) -> None: ...

    @abstractmethod
    def _close(self, *, failed: bool) -> None: ...

    @abstractmethod
    async def _send(self, content: memoryview, *, more: bool = False) -> None: ...

    @abstractmethod
    async def _send_file(self, file: int, start: int, count: int) -> int:
        """Send up to *count* bytes of *file* from *start*; return how many were sent, 0 at the end of the file."""

    async def _wait_for_space(self, writable: asyncio.Future[None]) -> None:
        """Wait for *writable*; raise ClientGone if no byte is acknowledged for `limits.unread` seconds."""
        while True:
            acknowledged = self._connection.acknowledged_bytes()
            done, _ = await asyncio.wait([writable], timeout=self._connection.limits.unread)
            if done:
                return
            if self._connection.acknowledged_bytes() == acknowledged:
                raise ClientGone

    async def _in_thread(self, operation: Callable[[], int]) -> int:
        """Run *operation* in a thread; return only when it has ended, even if cancelled.

        Until then its file descriptors must stay open: a closed number may be reused for another client's connection.
        """
        running = self._loop.run_in_executor(None, operation)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise


class PlainWriter(ResponseWriter):
    """A writer that bypasses the transport with a second file descriptor of the socket, and uses sendfile."""

    _socket: socket.socket

    async def _open(self, transport: asyncio.Transport) -> None:
        await drained(self._request, limit=0)
        if transport.is_closing():
            raise ClientGone
        original: socket.socket = transport.get_extra_info("socket")
        try:
            self._socket = socket.fromfd(original.fileno(), original.family, original.type)
        except OSError as error:
            if error.errno not in _DESCRIPTORS_EXHAUSTED:
                raise ClientGone from error
            raise MirrorError(
                "the mirror has no file descriptor left; raise its limit (ulimit -n) or lower limits.connections"
            ) from error
        self._socket.setblocking(False)

    def _close(self, *, failed: bool) -> None:  # noqa: ARG002
        self._socket.close()

    async def _send(self, content: memoryview, *, more: bool = False) -> None:
        while content:
            try:
                content = content[self._socket.send(content, socket.MSG_MORE if more else 0) :]
            except BlockingIOError:
                await self._wait_until_writable()

    async def _send_file(self, file: int, start: int, count: int) -> int:
        while True:
            try:
                if _is_in_memory(file, start + count - 1):
                    return os.sendfile(self._socket.fileno(), file, start, count)
                # Waiting for the disk here would block the event loop, and with it every other connection.
                return await self._in_thread(lambda: os.sendfile(self._socket.fileno(), file, start, count))
            except BlockingIOError:
                await self._wait_until_writable()

    async def _wait_until_writable(self) -> None:
        ready = self._loop.create_future()
        self._loop.add_writer(self._socket, wake, ready)
        try:
            await self._wait_for_space(ready)
        finally:
            self._loop.remove_writer(self._socket)


class TlsWriter(ResponseWriter):
    """A writer that goes through the transport, which encrypts.

    At most two pieces are in this process: one that the kernel does not accept yet, and the one behind it. Pieces are
    small for a slow client, so that a thousand slow clients need little memory.
    """

    _transport: asyncio.Transport

    async def _open(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._buffer = memoryview(bytearray(_MAX_PIECE))  # untouched pages occupy no memory
        self._piece_size = _MIN_PIECE

    def _close(self, *, failed: bool) -> None:
        if failed and self.head_written:
            self._transport.abort()  # an orderly TLS close would mark the truncated response as complete

    async def _send(self, content: memoryview, *, more: bool = False) -> None:  # noqa: ARG002
        while content:
            piece, content = content[: self._piece_size], content[self._piece_size :]
            await self._write_piece(piece)

    async def _send_file(self, file: int, start: int, count: int) -> int:
        piece = self._buffer[: min(count, self._piece_size)]
        try:
            read = os.preadv(file, [piece], start, os.RWF_NOWAIT)
        except BlockingIOError:
            read = await self._in_thread(lambda: os.preadv(file, [piece], start))
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:  # the file system does not support RWF_NOWAIT
                raise
            read = os.preadv(file, [piece], start)
        await self._write_piece(piece[:read])
        return read

    async def _write_piece(self, piece: memoryview) -> None:
        """Write *piece*; return when it is encrypted and its memory may be overwritten."""
        if self._request.transport is None or self._transport.is_closing():
            raise ClientGone
        self._transport.write(piece)
        writable = self._connection.writable()
        if writable is None:
            self._piece_size = min(2 * self._piece_size, _MAX_PIECE)
            return
        started = self._loop.time()
        await self._wait_for_space(writable)
        is_fast = self._loop.time() - started < _FAST_WRITE
        self._piece_size = min(2 * self._piece_size, _MAX_PIECE) if is_fast else _MIN_PIECE


def writer_for(request: web.BaseRequest) -> ResponseWriter:
    """Return the writer for the response to *request*: TlsWriter or PlainWriter."""
    connection = request.protocol
    assert isinstance(connection, Connection)  # noqa: S101
    return (TlsWriter if connection.is_tls else PlainWriter)(request, connection)


def _is_in_memory(file: int, offset: int) -> bool:
    """Return whether the byte at *offset* can be read without waiting for the disk."""
    try:
        os.preadv(file, [bytearray(1)], offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:  # the file system does not support RWF_NOWAIT
        return True
    return True
