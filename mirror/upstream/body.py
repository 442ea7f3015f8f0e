"""A blob's bytes as upstream sends them."""

from __future__ import annotations

import aiohttp

from mirror.errors import UpstreamDisconnected
from mirror.observability.metrics import Metrics
from mirror.upstream.raw_body import SocketBodyReader
from mirror.upstream.session import body_errors


class Body:
    """Bytes of a blob, from *start* on.

    Attributes:
        start: the offset of the first byte; 0 where upstream did not heed the range it was asked for.
        size: bytes of the whole blob; None where upstream doesn't say.
    """

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
        self._upstream = upstream
        self._response = response
        self._silence = silence
        self._metrics = metrics
        self._ahead = memoryview(b"")
        self._intake: SocketBodyReader | None = None
        self.start = start
        self.size = size

    async def begin(self) -> None:
        """Waits for the first bytes, so that whoever holds the body can promise it.

        Raises:
            UpstreamDisconnected
        """
        async with body_errors(self._upstream):
            self._ahead = memoryview(await self._response.content.readany())
        if not self._ahead and self.size not in {None, self.start}:
            raise UpstreamDisconnected(f"{self._upstream} sent no byte of {self.size}", upstream=self._upstream)
        framed = self._response.headers.get("Content-Length", "")
        if framed.isdecimal():
            async with body_errors(self._upstream):
                taken = SocketBodyReader.of(self._response, int(framed) - len(self._ahead), self._silence)
            if taken is not None:
                self._intake, more = taken
                self._ahead = memoryview(bytes(self._ahead) + more)

    async def read_into(self, buffer: memoryview) -> int:
        """Fills *buffer* as far as bytes are there; waits for the first.

        Returns:
            how many bytes; 0 at the end of the body.

        Raises:
            UpstreamDisconnected: it ended before its end.
        """
        if not self._ahead and self._intake is not None:
            size = await self._intake.read_into(buffer)
        else:
            if not self._ahead:
                async with body_errors(self._upstream):
                    self._ahead = memoryview(await self._response.content.readany())
            size = min(len(self._ahead), len(buffer))
            buffer[:size] = self._ahead[:size]
            self._ahead = self._ahead[size:]
        self._metrics.upstream_bytes.inc(size)
        return size
