"""The intake: the body of a large blob, from the socket straight into the buffers it is hashed and written from.

aiohttp parses the head of an answer, and hands bodies on in pieces that were copied twice, each into new memory: half
of the time that a download spends outside the kernel and the hash. For a body that is long and plainly framed, the
intake takes the connection over where aiohttp has come to, and reads the rest itself.
"""

from __future__ import annotations

import asyncio
import socket

import aiohttp

from mirror.errors import UpstreamDisconnected

WORTH_IT = 4 * 2**20  # bytes; the connection can't be used again afterwards


class SocketBodyReader(asyncio.BufferedProtocol):
    """The protocol of a connection whose next bytes are those of one body."""

    def __init__(self, transport: asyncio.Transport, before: asyncio.BaseProtocol, left: int, silence: float) -> None:
        self._transport = transport
        self._before = before
        self._left = left
        self._silence = silence
        self._buffer = memoryview(b"")
        self._filled: asyncio.Future[int] | None = None
        self._lost: Exception | None = None

    @classmethod
    def of(cls, response: aiohttp.ClientResponse, left: int, silence: float) -> tuple[SocketBodyReader, bytes] | None:
        """Takes over the connection of *response*, of whose body *left* bytes were not read yet.

        Returns:
            the intake, and what aiohttp had read ahead; None where there is too little left, or no connection.
        """
        # Undocumented parts of aiohttp: each is listed in tests/unit/test_aiohttp_private.py.
        connection = response.connection
        transport = None if connection is None else connection.transport
        if connection is None or connection.protocol is None or transport is None or left < WORTH_IT:
            return None
        # Nothing waits from here on. Reading makes aiohttp parse what it held back, until nothing is held.
        ahead = bytearray()
        while piece := response.content.read_nowait():
            ahead += piece
        intake = cls(transport, connection.protocol, left - len(ahead), silence)
        transport.pause_reading()
        transport.set_protocol(intake)
        return intake, bytes(ahead)

    async def read_into(self, buffer: memoryview) -> int:
        """Waits for the next bytes, as many as are there and fit.

        Raises:
            UpstreamDisconnected: the connection ended, or nothing came for too long.
        """
        if not self._left:
            return 0
        if self._lost is not None:
            raise UpstreamDisconnected("the connection to upstream broke") from self._lost
        self._buffer = buffer[: self._left]
        self._filled = asyncio.get_running_loop().create_future()
        self._transport.resume_reading()
        try:
            async with asyncio.timeout(self._silence):
                size = await self._filled
        except TimeoutError as error:
            raise UpstreamDisconnected(f"upstream sent nothing for {self._silence:g} s") from error
        finally:
            if not self._transport.is_closing():
                self._transport.pause_reading()  # also when nothing came: there is no buffer for it any more
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
        self._fail(ConnectionError("ended early"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionError("closed early"))
        self._before.connection_lost(exc)

    def _fail(self, error: Exception) -> None:
        self._lost = error
        if self._filled is not None and not self._filled.done():
            self._filled.set_exception(UpstreamDisconnected(f"the connection to upstream broke: {error}"))
