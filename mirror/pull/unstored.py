"""Unstored streams: content that goes from an origin to one client without being stored.

Used for blobs that cannot be stored (larger than the cache, no space), and for a range far ahead of a running download.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from types import TracebackType
from typing import Self

from mirror.oci.digest import Digest, Verifier
from mirror.oci.ranges import Span
from mirror.origin import Origin, PullContext
from mirror.pull.downloads import Handoff
from mirror.pull.origins import ResumedStream, releasable

_BUFFER = 2**18  # bytes read at once
_BATCH = 2**20  # bytes hashed at once, and received before the first is released


class UnstoredStream:
    """A span of a blob; open, with its first bytes already received, within its context.

    Of a whole blob, or its end after a handoff, the last bytes are withheld until the digest is verified. A part in the
    middle cannot be verified; its client verifies the whole.
    """

    def __init__(
        self,
        origins: Sequence[Origin],
        context: PullContext,
        digest: Digest,
        span: Span,
        size: int,
        handoff: Handoff | None = None,
    ) -> None:
        """Describe the stream; entering its context opens it.

        Args:
            size: bytes of the whole blob.
            handoff: the state of the download that *span* continues, if it ends the blob and the rest was verified.
        """
        if handoff is None and len(span) == size:
            handoff = Handoff(Verifier(digest), b"")
        self._span = span
        self._size = size
        self._handoff = handoff
        self._start = span.start + (0 if handoff is None else len(handoff.withheld))
        self._stream = ResumedStream(origins, context, digest, start=self._start, end=span.end, size=size)
        self._is_open = False

    async def __aenter__(self) -> Self:
        if not self._span or self._start < self._span.end:
            await self._stream.__aenter__()
            self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_open:
            await self._stream.__aexit__(kind, error, trace)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield exactly the bytes of the span.

        Of a stream that is verified, the first piece follows more than _BATCH bytes, or the verification of them all:
        a failure before it becomes an error response instead of an aborted one.

        Raises:
            UpstreamDisconnected, IntegrityError: if the rest can't be received, or is not verified.
        """
        if self._handoff is None:
            async for piece in self._received():
                yield piece
            return
        verifier = self._handoff.verifier
        unreleased, unhashed = bytearray(self._handoff.withheld), bytearray()
        released, is_begun = self._span.start, False
        async for piece in self._received():
            unreleased += piece
            unhashed += piece
            if len(unhashed) >= _BATCH:
                await asyncio.to_thread(verifier.feed, [bytes(unhashed)])
                unhashed.clear()
            is_begun = is_begun or len(unreleased) > _BATCH
            count = releasable(released + len(unreleased), self._size) - released
            if is_begun and count > 0:
                yield bytes(unreleased[:count])
                del unreleased[:count]
                released += count
        await asyncio.to_thread(verifier.feed, [bytes(unhashed)])
        verifier.finish(self._size)
        if unreleased:
            yield bytes(unreleased)

    async def _received(self) -> AsyncGenerator[bytes, None]:
        buffer = memoryview(bytearray(_BUFFER))
        while self._is_open and (count := await self._stream.read_into(buffer)):
            yield bytes(buffer[:count])
