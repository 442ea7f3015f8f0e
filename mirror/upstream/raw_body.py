"""Body reader for large blobs: receive from the socket directly into the caller's buffers (asyncio BufferedProtocol).

aiohttp parses the head of a response and delivers the body in chunks that were copied twice, each into new memory. That
is half of the time that a download spends outside the kernel and the hash. For a long body with a Content-Length,
SocketBodyReader replaces aiohttp's protocol on the connection and reads the rest of the body itself.
"""

from __future__ import annotations

import asyncio
import socket

import aiohttp

from mirror.errors import UpstreamDisconnected

MIN_BODY = 4 * 2**20  # bytes that make it worthwhile: the connection can't be reused afterwards


class SocketBodyReader(asyncio.BufferedProtocol):
    """asyncio protocol of a connection whose next bytes are the rest of one body."""

    def __init__(self, transport: asyncio.Transport, replaced: asyncio.BaseProtocol, left: int, silence: float) -> None:
        self._transport = transport
        self._replaced = replaced
        self._left = left
        self._silence = silence
        self._buffer = memoryview(b"")
        self._filled: asyncio.Future[int] | None = None
        self._lost: Exception | None = None

    @classmethod
    def of(cls, response: aiohttp.ClientResponse, left: int, silence: float) -> tuple[SocketBodyReader, bytes] | None:
        """Take over the connection of *response*, with *left* bytes of its body still unread.

        Returns:
            The reader and the bytes that aiohttp had read ahead. None if the rest is too short or the connection is
            gone.
        """
        # Undocumented parts of aiohttp: each is listed in tests/unit/server/test_aiohttp_private.py.
        connection = response.connection
        transport = None if connection is None else connection.transport
        if connection is None or connection.protocol is None or transport is None or left < MIN_BODY:
            return None
        # No await from here on. Each read makes aiohttp parse more of its buffered bytes, until none are left.
        ahead = bytearray()
        while piece := response.content.read_nowait():
            ahead += piece
        reader = cls(transport, connection.protocol, left - len(ahead), silence)
        transport.pause_reading()
        transport.set_protocol(reader)
        return reader, bytes(ahead)

    async def read_into(self, buffer: memoryview) -> int:
        """Wait for data, read it into *buffer* as far as available, and return the number of bytes; 0 at the end.

        Raises:
            UpstreamDisconnected: if the connection closed early, or sent nothing for `silence` seconds.
        """
        if not self._left:
            return 0
        if self._lost is not None:
            raise UpstreamDisconnected("the connection to the upstream broke") from self._lost
        self._buffer = buffer[: self._left]
        self._filled = asyncio.get_running_loop().create_future()
        self._transport.resume_reading()
        try:
            async with asyncio.timeout(self._silence):
                size = await self._filled
        except TimeoutError as error:
            raise UpstreamDisconnected(f"the upstream sent nothing for {self._silence:g} s") from error
        finally:
            if not self._transport.is_closing():
                self._transport.pause_reading()  # also after a time-out: there is no buffer any more
            self._filled = None
            self._buffer = memoryview(b"")
        self._left -= size
        return size

    def detach(self) -> socket.socket | None:
        """Return a blocking duplicate of the connection's socket for a thread; None over TLS.

        The event loop reads nothing more: the transport stays paused until its response is released.
        """
        own = self._transport.get_extra_info("socket")
        if own is None or self._transport.get_extra_info("ssl_object") is not None or self._transport.is_closing():
            return None
        self._transport.pause_reading()
        duplicate = socket.fromfd(own.fileno(), own.family, own.type)
        duplicate.setblocking(True)
        self._left = 0
        return duplicate

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._transport.pause_reading()
        if self._filled is not None and not self._filled.done():
            self._filled.set_result(nbytes)

    def eof_received(self) -> bool:
        self._fail(ConnectionError("end of stream before the end of the body"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionError("closed before the end of the body"))
        self._replaced.connection_lost(exc)

    def _fail(self, error: Exception) -> None:
        self._lost = error
        if self._filled is not None and not self._filled.done():
            self._filled.set_exception(UpstreamDisconnected(f"the connection to the upstream broke: {error}"))
