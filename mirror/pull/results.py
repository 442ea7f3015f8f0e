"""What pulls come to: a manifest or a blob, and how it was had."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial

from mirror.errors import MirrorError, StorageFailed, UpstreamError
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest, ManifestHead
from mirror.oci.names import Repository
from mirror.oci.ranges import Span
from mirror.pull.downloads import Download, Handoff
from mirror.pull.unstored import UnstoredStream
from mirror.storage.blob import DiskBlob
from mirror.storage.protocols import Readable
from mirror.upstream.registry import Registry


class CacheOutcome(Enum):
    """How a pull was answered; the value is its name in figures and events."""

    HIT = "hit"
    STORED = "stored"  # upstream was asked, and the answer is kept
    COLLAPSED = "collapsed"  # another pull was asking the same
    PASSED = "passed"  # upstream was asked, and the answer is not kept
    STALE = "stale"  # upstream could not confirm what is served


@dataclass(frozen=True, slots=True)
class ManifestResult:
    """A manifest; for HEAD perhaps only its head.

    Attributes:
        age: seconds since upstream last confirmed it, where it is stale.
        failure: why upstream could not confirm it, where it is stale.
    """

    head: ManifestHead
    manifest: Manifest | None
    outcome: CacheOutcome
    age: int = 0
    failure: MirrorError | None = None


@dataclass(frozen=True, slots=True)
class FileSpan:
    """Content that can be read now: *span* of *readable*."""

    readable: Readable
    span: Span


@dataclass(frozen=True, slots=True)
class BlobResult:
    """A blob that can be delivered: its size is known, and its first bytes are here or on their way.

    Attributes:
        readable: where to read it; None if it can only be passed through.
    """

    registry: Registry
    repository: Repository
    digest: Digest
    size: int
    outcome: CacheOutcome
    readable: Readable | None

    async def content(self, span: Span) -> AsyncGenerator[FileSpan | bytes, None]:
        """The bytes of *span*, as they can be had: where to read the next ones, or the next ones themselves.

        A download that can't be stored on is followed to where it got; from there its readers take the rest through.

        Raises:
            MirrorError: they can't be had.
        """
        at, readable = span.start, self.readable
        async with AsyncExitStack() as exits:
            passage = await self._ahead(exits, span)
            try:
                while passage is None and readable is not None and at < span.end:
                    reach = min(await readable.reach(at), span.end)
                    yield FileSpan(readable, Span(at, reach))
                    at = reach
            except StorageFailed as failure:
                passage = await exits.enter_async_context(self._rest(span, at, failure))
            if passage is None and readable is None:
                passage = await exits.enter_async_context(self._passage(span))
            if passage is not None:
                async with aclosing(passage.pieces()) as pieces:
                    async for piece in pieces:
                        yield piece

    def failed(self, failure: MirrorError) -> None:
        """Notes why it could not be delivered: what the disk does not give back is to be fetched again."""
        if isinstance(self.readable, DiskBlob) and isinstance(failure, StorageFailed):
            self.readable.failed(failure)

    async def _ahead(self, exits: AsyncExitStack, span: Span) -> UnstoredStream | None:
        """A passage of what a running download will not reach soon; None where reading is better, or all there is."""
        if isinstance(self.readable, Download) and self.readable.is_far(span.start):
            with suppress(UpstreamError):  # the download goes on, and will come there too
                return await exits.enter_async_context(self._passage(span))
        return None

    def _rest(self, span: Span, at: int, failure: StorageFailed) -> UnstoredStream:
        """A passage of what a download could not store of *span*, from *at* on.

        Raises:
            StorageFailed: the whole could not be verified any more.
        """
        readable = self.readable
        rest = readable.rest(at) if isinstance(readable, Download) and span.end == self.size else None
        if rest is None and len(span) == self.size:
            raise failure
        return self._passage(Span(at, span.end), rest, is_begun=True)

    def _passage(self, span: Span, rest: Handoff | None = None, *, is_begun: bool = False) -> UnstoredStream:
        # Who has a part already waits for its turn as long as a download does: the turns bound how many take the rest.
        source = partial(self.registry.blob, self.repository.name, self.digest, is_awaited=not is_begun)
        return UnstoredStream(self.digest, source, span, self.size, rest)
