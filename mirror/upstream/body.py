"""The body of a blob response: the stream of an upstream origin."""

from __future__ import annotations

import contextlib
import socket
import struct

import aiohttp

from mirror.errors import UpstreamDisconnected
from mirror.observability.metrics import Metrics
from mirror.origin import DetachedStream
from mirror.upstream.raw_body import SocketBodyReader
from mirror.upstream.session import body_errors


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
            UpstreamDisconnected: if the upstream sent a head and no byte.
        """
        framed = self._response.headers.get("Content-Length", "")
        self._unread = int(framed) if framed.isdecimal() else None
        async with body_errors(self._upstream):
            self._ahead = memoryview(await self._response.content.readany())
        if not self._ahead and self.size not in {None, self.start}:
            raise UpstreamDisconnected(f"{self._upstream} sent no byte of {self.size}", upstream=self._upstream)
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
