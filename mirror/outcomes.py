"""What pulls come to: a manifest or a blob, and how it was had."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial

from mirror.downloads import Download
from mirror.errors import MirrorError, UpstreamError
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest, ManifestHead
from mirror.oci.names import Repository
from mirror.oci.ranges import Span
from mirror.passages import Passage
from mirror.storage import Readable
from mirror.upstream.registry import Registry


class Outcome(Enum):
    """How a pull was answered; the value is its name in figures and events."""

    HIT = "hit"
    STORED = "stored"  # upstream was asked, and the answer is kept
    COLLAPSED = "collapsed"  # another pull was asking the same
    PASSED = "passed"  # upstream was asked, and the answer is not kept
    STALE = "stale"  # upstream could not confirm what is served


@dataclass(frozen=True, slots=True)
class ManifestPull:
    """A manifest; for HEAD perhaps only its head.

    Attributes:
        age: seconds since upstream last confirmed it, where it is stale.
        failure: why upstream could not confirm it, where it is stale.
    """

    head: ManifestHead
    manifest: Manifest | None
    outcome: Outcome
    age: int = 0
    failure: MirrorError | None = None


@dataclass(frozen=True, slots=True)
class BlobPull:
    """A blob that can be delivered: its size is known, and its first bytes are here or on their way.

    Attributes:
        readable: where to read it; None if it can only be passed through.
    """

    registry: Registry
    repository: Repository
    digest: Digest
    size: int
    outcome: Outcome
    readable: Readable | None

    @asynccontextmanager
    async def content(self, span: Span) -> AsyncIterator[Readable | Passage]:
        """Where to take the bytes of *span* from: something to read at offsets, or a passage of just these bytes.

        Raises:
            MirrorError: they can't be had.
        """
        async with AsyncExitStack() as exits:
            yield await self._open(exits, span)

    async def _open(self, exits: AsyncExitStack, span: Span) -> Readable | Passage:
        readable = self.readable
        if isinstance(readable, Download) and not readable.is_far(span.start):
            return readable
        if readable is not None and not isinstance(readable, Download):
            return readable
        source = partial(self.registry.blob, self.repository.name, self.digest)
        try:
            return await exits.enter_async_context(Passage(self.digest, source, span, self.size))
        except UpstreamError:
            if readable is None:
                raise
            return readable  # the download goes on, and will come there too
