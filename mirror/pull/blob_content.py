"""The content of a blob, as it can be delivered: from the store, from a download in progress, or unstored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass

from mirror.errors import MirrorError, StorageFailed, UpstreamError
from mirror.oci.digest import Digest
from mirror.oci.ranges import Span
from mirror.origin import PullContext
from mirror.pull.downloads import Download, Handoff
from mirror.pull.origins import Origins
from mirror.pull.unstored import UnstoredStream
from mirror.storage.protocols import Readable, StoredReadable


@dataclass(frozen=True, slots=True)
class FileSpan:
    """Bytes that can be sent from a file: *span* of *readable*."""

    readable: Readable
    span: Span


Unstored = Callable[[Span, Handoff | None, bool], UnstoredStream]
"""Creates an unstored stream, from a span, a handoff, and whether a client waits for the first byte."""


def unstored_streams(origins: Origins, context: PullContext, digest: Digest, size: int) -> Unstored:
    """Return the function that creates unstored streams of a blob of *size* bytes."""

    def opened(span: Span, handoff: Handoff | None, is_urgent: bool) -> UnstoredStream:
        chain = origins.for_clients if is_urgent else origins.for_downloads
        return UnstoredStream(chain(context), context, digest, span, size, handoff)

    return opened


class BlobContent(ABC):
    """The bytes of one blob."""

    @property
    @abstractmethod
    def readable(self) -> Readable | None:
        """The file that holds the content, or will; None if every range costs a request to the upstream."""

    @abstractmethod
    def read(self, span: Span) -> AsyncGenerator[FileSpan | bytes, None]:
        """Yield the bytes of *span* as they become available: the place in a file, or the bytes themselves.

        Raises:
            MirrorError: if they are not available.
        """

    @abstractmethod
    def failed(self, failure: MirrorError) -> None:
        """Note why the content could not be delivered: a stored blob that the disk does not return is fetched again."""


class StoredContent(BlobContent):
    """A committed blob."""

    def __init__(self, blob: StoredReadable) -> None:
        self._blob = blob

    @property
    def readable(self) -> Readable:
        return self._blob

    async def read(self, span: Span) -> AsyncGenerator[FileSpan | bytes, None]:
        yield FileSpan(self._blob, span)

    def failed(self, failure: MirrorError) -> None:
        if isinstance(failure, StorageFailed):
            self._blob.failed(failure)


class UnstoredContent(BlobContent):
    """A blob that is only passed through."""

    def __init__(self, unstored: Unstored) -> None:
        self._unstored = unstored

    @property
    def readable(self) -> None:
        return None

    def failed(self, failure: MirrorError) -> None:
        """Do nothing: no content is stored."""

    async def read(self, span: Span) -> AsyncGenerator[FileSpan | bytes, None]:
        async with self._unstored(span, None, True) as stream, aclosing(stream.pieces()) as pieces:
            async for piece in pieces:
                yield piece


class DownloadContent(BlobContent):
    """A download in progress.

    A reader of a range far ahead gets an unstored stream. So does a reader of a download that cannot be stored to its
    end: it follows the file to its end, and continues with an unstored stream.
    """

    def __init__(self, download: Download, unstored: Unstored) -> None:
        self._download = download
        self._unstored = unstored

    @property
    def readable(self) -> Readable:
        return self._download

    def failed(self, failure: MirrorError) -> None:
        """Do nothing: the download records its own failure."""

    async def read(self, span: Span) -> AsyncGenerator[FileSpan | bytes, None]:
        at = span.start
        async with AsyncExitStack() as exits:
            stream = await self._ahead(exits, span)
            try:
                while stream is None and at < span.end:
                    reach = min(await self._download.reach(at), span.end)
                    yield FileSpan(self._download, Span(at, reach))
                    at = reach
            except StorageFailed as failure:
                stream = await exits.enter_async_context(self._rest(span, at, failure))
            if stream is not None:
                async with aclosing(stream.pieces()) as pieces:
                    async for piece in pieces:
                        yield piece

    async def _ahead(self, exits: AsyncExitStack, span: Span) -> UnstoredStream | None:
        """Return an unstored stream of a span that the download will not reach soon; None to follow the download."""
        if self._download.is_far(span.start):
            with suppress(UpstreamError):  # the download continues, and will reach it too
                return await exits.enter_async_context(self._unstored(span, None, True))
        return None

    def _rest(self, span: Span, at: int, failure: StorageFailed) -> UnstoredStream:
        """Return the rest of *span*, from *at* on, of a download that could not be stored.

        Raises:
            StorageFailed: if the whole blob is wanted, and could not be verified any more.
        """
        handoff = self._download.handoff(at) if span.end == self._download.size else None
        if handoff is None and len(span) == self._download.size:
            raise failure
        # A client that has a part already waits for a slot as long as a download does: the slots bound their number.
        return self._unstored(Span(at, span.end), handoff, False)
