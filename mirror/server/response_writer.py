"""Channels: how an answer that is too large for memory gets onto a connection, as fast as the client takes it.

Over plain TCP a blob goes from file to socket in the kernel (sendfile). uvloop has no sendfile of its own, so the bytes
pass it by on a second descriptor of the connection's socket. Over TLS they have to go through the transport, piece by
piece, each written when the one before has left this process.
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
from mirror.server.connections import Connection
from mirror.server.response import ClientGone, ending, taken
from mirror.storage.protocols import Readable

_STRETCH = 2**19  # bytes to send before others have their turn, and the page cache is looked at again
_ROUND = 2**23  # bytes for all of them together, while the loop goes round once; then everybody sends little
_PIECE = 64 * 2**10  # bytes that are written to a transport at once: to begin with, and
_PIECES = 2**20  # to a client that is fast enough
_AT_ONCE = 0.1  # seconds in which a fast one takes a piece
_SHORT = {errno.EMFILE, errno.ENFILE}


class _Pace:
    """What is left to send in this round of the loop: some hundred who begin at once would stop it for everybody."""

    def __init__(self) -> None:
        self._spent = 0

    def share(self, loop: asyncio.AbstractEventLoop, wanted: int) -> int:
        """So many bytes of *wanted* are to be sent at once."""
        if not self._spent:
            loop.call_soon(self._begin)
        share = wanted if self._spent < _ROUND else min(wanted, _PIECE)
        self._spent += share
        return share

    def _begin(self) -> None:
        self._spent = 0


_pace = _Pace()


class ResponseWriter(ABC):
    """A connection, for one answer.

    Raises:
        ClientGone: from its context, whenever it shows that nobody listens any more.
    """

    def __init__(self, request: web.BaseRequest, connection: Connection) -> None:
        self._request = request
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self.begun = False
        self.sent = 0  # bytes of content

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
            raise StorageFailed(f"the disk failed: {error.strerror}") from error
        if isinstance(error, OSError):
            raise ClientGone from error

    async def head(self, head: bytes, *, more: bool) -> None:
        """Sends the head; in one packet with content, if *more* is to follow."""
        self.begun = True
        await self._send(memoryview(head + ending(self._request)), more=more)

    async def say(self, framing: bytes) -> None:
        """Sends what is no content."""
        await self._send(memoryview(framing))

    async def write(self, content: bytes) -> None:
        """Sends content that is in memory."""
        await self._send(memoryview(content))
        self.sent += len(content)

    async def copy(self, readable: Readable, start: int, end: int) -> None:
        """Sends content from *start* up to *end*, as it becomes readable.

        Raises:
            MirrorError: it ends too early.
        """
        stretch = _PIECE
        while start < end:
            reach = min(await readable.reach(start), end)
            while start < reach:
                sent = await self._copy(readable.fileno(), start, _pace.share(self._loop, min(reach - start, stretch)))
                stretch = min(2 * stretch, _STRETCH)
                if not sent:
                    raise UpstreamDisconnected("the file ended before the blob")
                start += sent
                self.sent += sent
                # A hundred who begin together fill megabytes of the system's memory each: others have their turn.
                await asyncio.sleep(0)

    @abstractmethod
    async def _open(self, transport: asyncio.Transport) -> None: ...

    @abstractmethod
    def _close(self, *, failed: bool) -> None: ...

    @abstractmethod
    async def _send(self, content: memoryview, *, more: bool = False) -> None: ...

    @abstractmethod
    async def _copy(self, file: int, start: int, count: int) -> int:
        """Sends up to *count* bytes of *file* from *start* on; says how many, 0 at its end."""

    async def _until(self, room: asyncio.Future[None]) -> None:
        """Waits for *room* for as long as the client takes anything at all."""
        while True:
            taken = self._connection.taken()
            done, _ = await asyncio.wait([room], timeout=self._connection.limits.unread)
            if done:
                return
            if self._connection.taken() == taken:
                raise ClientGone

    async def _on_thread(self, act: Callable[[], int]) -> int:
        """Comes back only when the thread has: until then nobody may close the descriptors that it uses."""
        acting = self._loop.run_in_executor(None, act)
        try:
            return await asyncio.shield(acting)
        except asyncio.CancelledError:
            await asyncio.wait([acting])
            raise


class PlainWriter(ResponseWriter):
    """Past the transport, on a second descriptor."""

    _socket: socket.socket

    async def _open(self, transport: asyncio.Transport) -> None:
        await taken(self._request, most=0)
        if transport.is_closing():
            raise ClientGone
        own: socket.socket = transport.get_extra_info("socket")
        try:
            self._socket = socket.fromfd(own.fileno(), own.family, own.type)
        except OSError as error:
            if error.errno not in _SHORT:
                raise ClientGone from error
            raise MirrorError(
                "the mirror has no descriptor left; raise its limit (ulimit -n) or lower limits.connections"
            ) from error
        self._socket.setblocking(False)

    def _close(self, *, failed: bool) -> None:  # noqa: ARG002
        self._socket.close()

    async def _send(self, content: memoryview, *, more: bool = False) -> None:
        while content:
            try:
                content = content[self._socket.send(content, socket.MSG_MORE if more else 0) :]
            except BlockingIOError:
                await self._writable()

    async def _copy(self, file: int, start: int, count: int) -> int:
        while True:
            try:
                if _is_in_memory(file, start + count - 1):
                    return os.sendfile(self._socket.fileno(), file, start, count)
                # The disk would stop the loop, and with it everybody else.
                return await self._on_thread(lambda: os.sendfile(self._socket.fileno(), file, start, count))
            except BlockingIOError:
                await self._writable()

    async def _writable(self) -> None:
        ready = self._loop.create_future()
        self._loop.add_writer(self._socket, _wake, ready)
        try:
            await self._until(ready)
        finally:
            self._loop.remove_writer(self._socket)


class TlsWriter(ResponseWriter):
    """Through the transport, which encrypts.

    At most two pieces are in this process: one that the system does not take yet, and one behind it. A client that is
    slow gets small ones, so that a thousand of them take little memory.
    """

    _transport: asyncio.Transport

    async def _open(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._buffer = memoryview(bytearray(_PIECES))  # untouched pages take no memory
        self._piece = _PIECE

    def _close(self, *, failed: bool) -> None:
        if failed and self.begun:
            self._transport.abort()  # a goodbye would say that this was all

    async def _send(self, content: memoryview, *, more: bool = False) -> None:  # noqa: ARG002
        while content:
            piece, content = content[: self._piece], content[self._piece :]
            await self._put(piece)

    async def _copy(self, file: int, start: int, count: int) -> int:
        piece = self._buffer[: min(count, self._piece)]
        try:
            read = os.preadv(file, [piece], start, os.RWF_NOWAIT)
        except BlockingIOError:
            read = await self._on_thread(lambda: os.preadv(file, [piece], start))
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:  # a file system that can't tell what is in memory
                raise
            read = os.preadv(file, [piece], start)
        await self._put(piece[:read])
        return read

    async def _put(self, piece: memoryview) -> None:
        """Comes back when *piece* is encrypted and may be overwritten."""
        if self._request.transport is None or self._transport.is_closing():
            raise ClientGone
        self._transport.write(piece)
        room = self._connection.room()
        if room is None:
            self._piece = min(2 * self._piece, _PIECES)
            return
        began = self._loop.time()
        await self._until(room)
        quick = self._loop.time() - began < _AT_ONCE
        self._piece = min(2 * self._piece, _PIECES) if quick else _PIECE


def writer_for(request: web.BaseRequest) -> ResponseWriter:
    """For the answer to *request*."""
    connection = request.protocol
    assert isinstance(connection, Connection)  # noqa: S101
    return (TlsWriter if connection.is_tls else PlainWriter)(request, connection)


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
