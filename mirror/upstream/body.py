"""The body of a blob response: the stream of an upstream origin.

aiohttp parses the head of a response and delivers the body in chunks that were copied twice, each into new memory. That
is half of the time that a download spends outside the kernel and the hash. For a long body with a Content-Length,
SocketBodyReader (an asyncio BufferedProtocol) replaces aiohttp's protocol on the connection and receives the rest from
the socket directly into the caller's buffers.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

import aiohttp

from mirror.errors import UpstreamDisconnected
from mirror.observability.metrics import Metrics
from mirror.origin import DetachedStream
from mirror.upstream.session import body_errors

MIN_BODY = 4 * 2**20  # bytes that make it worthwhile: the connection can't be reused afterwards


class BlobBody:
    """The bytes of a blob from *start* on, as one response carries them (an `OriginStream`)."""

    def __init__(
        self,
        upstream: str,
        response: aiohttp.ClientResponse,
        *,
        start: int,
        size: int | None,
        silence: float,
        metrics: Metrics,
    ) -> None:
        """*silence*: seconds without a byte after which the stream counts as broken."""
        self._upstream = upstream
        self._response = response
        self._silence = silence
        self._metrics = metrics
        self._ahead = memoryview(b"")
        self._reader: SocketBodyReader | None = None
        self._unread: int | None = None  # bytes of the body that were not returned yet; None if chunked
        self.start = start
        self.size = size
        tag = response.headers.get("ETag", "")
        self.validator = tag if tag.startswith('"') else None

    async def begin(self) -> None:
        """Wait for the first bytes, so that the caller can send a response head.

        Raises:
            UpstreamDisconnected: if the upstream sent a response head and no byte.
        """
        framed = self._response.headers.get("Content-Length", "")
        self._unread = int(framed) if framed.isdecimal() else None
        async with body_errors(self._upstream):
            self._ahead = memoryview(await self._response.content.readany())
        expected = None if self.size is None else self.size - self.start
        if not self._ahead and expected:
            raise UpstreamDisconnected(
                f"{self._upstream} sent a response head, but none of the {expected} bytes", upstream=self._upstream
            )
        if self._unread is not None:
            async with body_errors(self._upstream):
                taken = SocketBodyReader.of(self._response, self._unread - len(self._ahead), self._silence)
            if taken is not None:
                self._reader, more = taken
                self._ahead = memoryview(bytes(self._ahead) + more)

    async def read_into(self, buffer: memoryview) -> int:
        """Wait for the next bytes, and copy as many as are available and fit.

        Returns:
            The number of bytes; 0 at the end.

        Raises:
            UpstreamDisconnected: if the body ended early.
        """
        if not self._ahead and self._reader is not None:
            size = await self._reader.read_into(buffer)
        else:
            if not self._ahead:
                async with body_errors(self._upstream):
                    self._ahead = memoryview(await self._response.content.readany())
            size = min(len(self._ahead), len(buffer))
            buffer[:size] = self._ahead[:size]
            self._ahead = self._ahead[size:]
        if self._unread is not None:
            self._unread -= size
        self._metrics.upstream_bytes.inc(size)
        return size

    def detach(self) -> DetachedStream | None:
        """Take the connection away from the event loop; None unless it is plain TCP with a plainly framed long body."""
        reader = self._reader
        if reader is None or not self._unread:
            return None
        found = reader.detach()
        if found is None:
            return None
        buffered, self._ahead = bytes(self._ahead), memoryview(b"")
        seconds = struct.pack("ll", int(self._silence), int(self._silence % 1 * 1e6))
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
        remaining, self._unread = self._unread - len(buffered), 0
        return DetachedStream(found, buffered, remaining)


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
