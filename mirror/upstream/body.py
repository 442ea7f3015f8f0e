"""A blob's bytes as upstream sends them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp

from mirror.errors import UpstreamCut
from mirror.metrics import Metrics
from mirror.upstream.session import body_errors


class Body:
    """Bytes of a blob, from *start* on.

    Attributes:
        start: the offset of the first byte; 0 where upstream did not heed the range it was asked for.
        size: bytes of the whole blob; None where upstream doesn't say.
    """

    def __init__(
        self, upstream: str, content: aiohttp.StreamReader, *, start: int, size: int | None, metrics: Metrics
    ) -> None:
        self._upstream = upstream
        self._content = content
        self._metrics = metrics
        self._first = b""
        self.start = start
        self.size = size

    async def begin(self) -> None:
        """Waits for the first bytes, so that whoever holds the body can promise it.

        Raises:
            UpstreamCut
        """
        async with body_errors(self._upstream):
            self._first = await self._content.readany()
        if not self._first and self.size not in {None, self.start}:
            raise UpstreamCut(f"{self._upstream} sent no byte of {self.size}", upstream=self._upstream)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The bytes, in pieces as they come.

        Raises:
            UpstreamCut: they end too early.
        """
        piece = self._first
        while piece:
            self._metrics.upstream_bytes.inc(len(piece))
            yield piece
            async with body_errors(self._upstream):
                piece = await self._content.readany()
