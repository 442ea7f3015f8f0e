"""Passages: content that goes from upstream to one client without being stored.

For what can't be stored (larger than the cache, no room), and for a range far ahead of a running download.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from mirror.downloads import Arriving
from mirror.errors import UpstreamCorrupt, UpstreamCut
from mirror.oci.digest import Digest, Verifier
from mirror.oci.ranges import Span

_BUFFER = 2**18  # bytes read at once
_BATCH = 2**20  # bytes hashed at once


class Passage:
    """A part of a blob on its way through."""

    def __init__(self, digest: Digest, body: Arriving, span: Span, size: int) -> None:
        self._digest = digest
        self._body = body
        self._span = span
        self._size = size

    async def pieces(self) -> AsyncIterator[bytes]:
        """Exactly the span's bytes. Of a whole blob the last batch is held back until all of it is verified.

        Raises:
            UpstreamCut, UpstreamCorrupt: the rest will not come, or must not be passed on.
        """
        whole = len(self._span) == self._size
        verifier = Verifier(self._digest)
        batch: list[bytes] = []
        waiting = 0
        async for piece in self._wanted():
            batch.append(piece)
            waiting += len(piece)
            if waiting >= _BATCH:
                *sure, last = batch
                for one in sure:
                    yield one
                if whole:
                    await asyncio.to_thread(verifier.feed, sure)
                batch, waiting = [last], len(last)
        if whole:
            await asyncio.to_thread(verifier.feed, batch)
            verifier.finish(self._size)
        for one in batch:
            yield one

    async def _wanted(self) -> AsyncIterator[bytes]:
        at = self._body.start
        async for piece in _pieces(self._body):
            first, last = max(self._span.start - at, 0), self._span.end - at
            at += len(piece)
            if at > self._size:
                raise UpstreamCorrupt(f"upstream sends more than the {self._size} bytes of {self._digest}")
            if first < len(piece) and last > 0:
                yield piece[first:last] if first or last < len(piece) else piece
            if at >= self._span.end and at < self._size:
                return
        if at < self._span.end:
            raise UpstreamCut(f"{self._digest} ended after {at} of {self._size} bytes")


async def _pieces(body: Arriving) -> AsyncIterator[bytes]:
    buffer = memoryview(bytearray(_BUFFER))
    while size := await body.read_into(buffer):
        yield bytes(buffer[:size])
