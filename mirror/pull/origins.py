"""Origin chains: one continuous stream of a blob over several origins and any number of disconnects.

After a failure the stream continues from its current offset: with the next origin, or with the same one after a pause.
Attempts and pauses are counted per origin. The rule that withholds the end of a blob until it is verified is here too.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog

from mirror.errors import (
    ContentUnknown,
    Denied,
    MirrorError,
    SizeMismatch,
    UpstreamDisconnected,
    UpstreamError,
    UpstreamUnavailable,
)
from mirror.oci.digest import Digest
from mirror.oci.ranges import Span
from mirror.origin import Origin, OriginStream, PullContext

WITHHELD = 64 * 2**10  # bytes at the end of a blob that no client receives before the whole is verified
_MAX_FRUITLESS = 5  # consecutive attempts at one origin without a byte
_PAUSES = (0.1, 2.0)  # seconds before another attempt at the same origin: the first, and the longest

OriginsOf = Callable[[PullContext], Sequence[Origin]]
"""Returns the origins of the context's repository, the preferred one first."""


@dataclass(frozen=True, slots=True)
class Origins:
    """The chains of origins, by upstream. A new origin joins both; nothing else in `pull/` knows which there are.

    Attributes:
        downloads: for downloads, which wait for an origin's slot as long as it takes.
        streams: for streams that a client waits for.
    """

    downloads: Mapping[str, Sequence[Origin]]
    streams: Mapping[str, Sequence[Origin]]

    def for_downloads(self, context: PullContext) -> Sequence[Origin]:
        return self.downloads[context.repository.upstream]

    def for_clients(self, context: PullContext) -> Sequence[Origin]:
        return self.streams[context.repository.upstream]


log = structlog.get_logger()


def releasable(received: int, size: int) -> int:
    """Return how many of *received* bytes a client may have before the blob of *size* bytes is verified."""
    return min(received, max(0, size - WITHHELD))


class _Attempts:
    """The attempts at one origin.

    Attributes:
        ready_at: when the next attempt may begin, on the event loop's clock.
        is_exhausted: whether this origin is not asked again.
    """

    __slots__ = ("fruitless", "is_exhausted", "origin", "pause", "ready_at")

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.fruitless = 0
        self.pause = _PAUSES[0]
        self.ready_at = 0.0
        self.is_exhausted = False

    def failed(self, error: MirrorError, *, has_progressed: bool, now: float) -> None:
        """Count a failure. An origin that is unavailable or announces a wrong size may recover; the rest is final."""
        self.fruitless = 0 if has_progressed else self.fruitless + 1
        may_recover = isinstance(error, UpstreamUnavailable | SizeMismatch)
        self.is_exhausted = self.fruitless >= _MAX_FRUITLESS or not may_recover
        self.ready_at = now + random.uniform(self.pause / 2, self.pause)  # noqa: S311 - jitter
        self.pause = _PAUSES[0] if has_progressed else min(2 * self.pause, _PAUSES[1])


class ResumedStream:
    """A run of a blob's bytes; open, with its first bytes already received, within its context.

    Attributes:
        size: bytes of the whole blob; None if neither an origin announced nor the caller expected them.
    """

    def __init__(
        self,
        origins: Sequence[Origin],
        context: PullContext,
        digest: Digest,
        *,
        start: int = 0,
        end: int | None = None,
        size: int | None = None,
        expected_size: int | None = None,
        on_size: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Describe the stream; entering its context opens it.

        Args:
            start: the offset of the first byte.
            end: the offset after the last byte; None for the end of the blob.
            size: the size that a client was already promised: an origin that announces another is wrong, and tried
                again like one that is unavailable.
            expected_size: the size that a manifest states, in case no origin announces one.
            on_size: is called with the size when an origin announces it.
        """
        self._attempts = [_Attempts(origin) for origin in origins]
        self._current = self._attempts[0]
        self._context = context
        self._digest = digest
        self._start = start
        self._end = end
        self._expected_size = expected_size
        self._on_size = on_size
        self._is_promised = size is not None
        self.size = size
        self._at = start
        self._opened_at = start
        self._skip = 0  # bytes before the offset, from an origin that ignored the range
        self._stream: OriginStream | None = None
        self._connection = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Open the first origin that answers. After a wrong size, each is tried as often as in the middle.

        Raises:
            MirrorError: if no origin answered; the failure of the last one.
        """
        for attempts in self._attempts:
            self._current = attempts
            try:
                await self._open()
            except (ContentUnknown, UpstreamError, Denied) as error:
                if attempts is not self._attempts[-1]:
                    await self._disconnect(error)
                    attempts.failed(error, has_progressed=False, now=_now())
                elif isinstance(error, SizeMismatch):
                    await self._resume(error)
                else:
                    await self._disconnect(error)
                    raise
            else:
                break
        if self.size is None:
            self.size = self._expected_size
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.__aexit__(kind, error, trace)

    async def read_into(self, buffer: memoryview) -> int:
        """Wait for the next bytes, over as many disconnects as the origins make while they still deliver.

        Returns:
            The number of bytes; 0 at the end.

        Raises:
            SizeMismatch: if an origin sends more than the size, or announces another one.
            MirrorError: if no origin delivers the rest.
        """
        while self._end is None or self._at < self._end:
            try:
                count = await self._read(buffer)
            except UpstreamUnavailable as error:
                if self._at == self.size and not self._skip:  # a range after the last byte would fetch all of it again
                    break
                await self._resume(error)
                continue
            if count is None:
                break
            if count:  # else every byte lay before the offset
                return count
        return 0

    async def _read(self, buffer: memoryview) -> int | None:
        """Read once from the current connection; None at the end of the stream.

        Raises:
            UpstreamDisconnected: if the connection ended early.
        """
        assert self._stream is not None, "open within the context"  # noqa: S101
        count = await self._stream.read_into(buffer)
        if not count:
            self._require_whole()
            return None
        skipped = min(self._skip, count)
        self._skip -= skipped
        count -= skipped
        if self.size is not None and self._at + count > self.size:
            raise self._size_mismatch(f"sends more than the {self.size} bytes of {self._digest}")
        if self._end is not None:
            count = min(count, self._end - self._at)
        if skipped:
            buffer[:count] = bytes(buffer[skipped : skipped + count])
        self._at += count
        return count

    def _require_whole(self) -> None:
        """Raise an error if the stream ended too early.

        Raises:
            UpstreamDisconnected: if bytes are missing.
            SizeMismatch: if the origin announced no size, and its whole blob ends before the offset.
        """
        end = self.size if self._end is None else self._end
        if self._skip and self.size is None:
            raise self._size_mismatch(f"sends {self._at - self._skip} bytes of {self._digest}, fewer than {self._at}")
        if self._skip or (end is not None and self._at < end):
            raise UpstreamDisconnected(
                f"{self._digest} ended after {self._at} of {'an unknown number of' if end is None else end} bytes"
            )

    async def _open(self) -> None:
        """Connect to the current origin at the current offset."""
        origin = self._current.origin
        is_whole = not self._at and (self._end is None or self._end == self.size)
        span = None if is_whole else Span(self._at, self._at if self._end is None else self._end)
        stream = await self._connection.enter_async_context(origin.open(self._context, self._digest, span))
        if stream.size is not None and self.size is None:
            self._on_size(stream.size)
            self.size = stream.size
        elif stream.size is not None and not self._fits(stream.size):
            raise self._size_mismatch(f"announces {stream.size} bytes for {self._digest}, which has {self.size}")
        self._stream, self._skip, self._opened_at = stream, self._at - stream.start, self._at

    def _fits(self, announced: int) -> bool:
        """Return whether an origin that announces this size has the wanted bytes.

        The end of the blob is at the promised size only. A part before it is the same whichever size is right.
        """
        if announced == self.size:
            return True
        return self._is_promised and self._end is not None and self._end != self.size and self._end <= announced

    def _size_mismatch(self, what: str) -> SizeMismatch:
        return SizeMismatch(f"{self._current.origin.name} {what}", upstream=self._context.repository.upstream)

    async def _resume(self, error: MirrorError) -> None:
        """Continue from the current offset: with the origin that is ready first.

        Raises:
            MirrorError: if every origin is exhausted; the last failure.
        """
        while True:
            await self._disconnect(error)
            self._current.failed(error, has_progressed=self._at > self._opened_at, now=_now())
            left = [attempts for attempts in self._attempts if not attempts.is_exhausted]
            if not left:
                raise error
            self._current = min(left, key=lambda attempts: attempts.ready_at)
            log.info(
                "origin_resumed",
                digest=str(self._digest),
                origin=self._current.origin.name,
                offset=self._at,
                reason=str(error),
            )
            await asyncio.sleep(max(0.0, self._current.ready_at - _now()))
            self._opened_at = self._at
            try:
                await self._open()
            except (ContentUnknown, UpstreamError, Denied) as failure:
                if isinstance(failure, SizeMismatch) and not self._is_promised:
                    raise  # one of two announced sizes is wrong, and readers have bytes of the first
                error = failure
            else:
                return

    async def _disconnect(self, error: MirrorError) -> None:
        """Close the current connection; the origin sees the failure."""
        await self._connection.__aexit__(type(error), error, error.__traceback__)
        self._stream = None


def _now() -> float:
    return asyncio.get_running_loop().time()
