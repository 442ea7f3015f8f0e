"""Passages: content that goes from upstream to one client without being stored.

For what can't be stored (larger than the cache, no room), and for a range far ahead of a running download.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from mirror.errors import SizeMismatch, UpstreamDisconnected, UpstreamUnavailable
from mirror.oci.digest import Digest, Verifier
from mirror.oci.ranges import Span
from mirror.pull.downloads import Handoff, OriginStream, Source

_BUFFER = 2**18  # bytes read at once
_BATCH = 2**20  # bytes hashed at once
_FRUITLESS = 3  # tries in a row that brought no byte
_PAUSE = 0.2  # seconds before another try


class UnstoredStream:
    """A part of a blob on its way through; open, and with its first bytes at hand, within its context.

    Args:
        rest: if this is the end of a blob whose begin was verified as it came from elsewhere: where that stands.
    """

    def __init__(self, digest: Digest, source: Source, span: Span, size: int, rest: Handoff | None = None) -> None:
        self._digest = digest
        self._source = source
        self._span = span
        self._size = size
        self._is_whole = len(span) == size
        if rest is None and self._is_whole:
            rest = Handoff(Verifier(digest), b"")
        self._rest = rest
        self._begin = span.start + (len(rest.withheld) if rest is not None else 0)
        self._body: OriginStream | None = None
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if not self._span or self._begin < self._span.end:
            span = None if self._is_whole and not self._begin else Span(self._begin, self._span.end)
            self._body = await self._open.enter_async_context(self._source(span))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.__aexit__(kind, error, trace)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Exactly the span's bytes. Of a whole blob, or its end, the last are held back until all of it is verified.

        Raises:
            UpstreamDisconnected, IntegrityError: the rest will not come, or must not be passed on.
        """
        if self._rest is None:
            async for piece in self._resumed():
                yield piece
            return
        verifier = self._rest.verifier
        batch: list[bytes] = []
        waiting = 0
        async for piece in self._resumed():
            batch.append(piece)
            waiting += len(piece)
            if waiting >= _BATCH:
                *sure, last = batch
                await asyncio.to_thread(verifier.feed, sure)
                for one in sure:
                    yield one
                batch, waiting = [last], len(last)
        await asyncio.to_thread(verifier.feed, batch)
        verifier.finish(self._size)
        if self._rest.withheld:
            yield self._rest.withheld
        for one in batch:
            yield one

    async def _resumed(self) -> AsyncIterator[bytes]:
        """The span's bytes, over as many interruptions as upstream makes while it still delivers."""
        at, fruitless = self._begin, 0
        while at < self._span.end:
            try:
                async for piece in self._stretch(at):
                    at += len(piece)
                    fruitless = 0
                    yield piece
                if at < self._span.end:
                    raise UpstreamDisconnected(f"{self._digest} ended after {at} of {self._size} bytes")
            except UpstreamUnavailable as error:
                fruitless += 1
                await self._open.__aexit__(type(error), error, error.__traceback__)  # the source hears how it ended
                if fruitless >= _FRUITLESS:
                    raise
                await asyncio.sleep(random.uniform(_PAUSE / 2, _PAUSE))  # noqa: S311 - jitter

    async def _stretch(self, at: int) -> AsyncIterator[bytes]:
        """One connection's worth of the span, from *at* on."""
        body, self._body = self._body, None
        if body is None:
            body = await self._open.enter_async_context(self._source(Span(at, self._span.end)))
        buffer = memoryview(bytearray(_BUFFER))
        begin = body.start
        while begin < self._span.end and (size := await body.read_into(buffer)):
            piece = buffer[max(at - begin, 0) : min(size, self._span.end - begin)]
            begin += size
            if begin > self._size:
                raise SizeMismatch(f"upstream sends more than the {self._size} bytes of {self._digest}")
            if piece:
                yield bytes(piece)
