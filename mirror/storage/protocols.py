"""Protocols of the storage layer: BlobStore, Ingest and CacheFiles for content, FactStore and UsageStore for facts.

Other packages use these and not the classes behind them. Content becomes visible in one way only: an ingest holds the
bytes while they are received, and `commit`, after verification, turns it into a blob. A blob never changes. A blob that
is held is not evicted.

Unless its text says otherwise, an `async` method does disk work on a thread and does not block the event loop, and a
method without `async` is answered from memory.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol

from mirror.errors import StorageFailed
from mirror.oci.digest import Digest, Verifier
from mirror.oci.image_names import Image
from mirror.oci.names import Repository, Tag
from mirror.storage.blob_rows import NamedBlob
from mirror.storage.facts import HeldFact, ManifestFact, TagFact
from mirror.storage.lru_inventory import BlobRow


class Readable(Protocol):
    """Content that can be read now or while it is received: a blob, a download, an unstored stream."""

    @property
    def size(self) -> int:
        """The bytes of the whole content."""

    def fileno(self) -> int:
        """Return a file descriptor of the content. It is shared: read at offsets, never move its position."""

    async def reach(self, offset: int) -> int:
        """Wait until content after *offset* can be read. Return the end of it: more than *offset*, or the size.

        Raises:
            MirrorError: if the content will never be complete.
        """


class StoredReadable(Readable, Protocol):
    """A committed blob, open for reading."""

    def failed(self, error: StorageFailed) -> None:
        """Report that the disk does not return the content: it counts as absent until the disk is checked again."""


class Ingest(Protocol):
    """The content of one digest while it is received. Leaving its context without a commit keeps the bytes.

    Used by downloads and imports, one caller at a time.
    """

    @property
    def written(self) -> int:
        """The bytes in the file, those of an earlier attempt included."""

    @property
    def is_complete(self) -> bool:
        """Whether the bytes in the file have the digest already: an earlier attempt received all of them."""

    def fileno(self) -> int:
        """Return a file descriptor of the growing file, for readers that follow it."""

    def verification(self) -> Verifier:
        """Return a copy of the verifier, for a reader that receives the rest without storing it."""

    async def reserve(self, size: int) -> None:
        """Reserve space for *size* bytes in total, before they are received.

        Raises:
            NoSpace: if evicting every blob that is not held would free too little.
        """

    async def append(self, content: memoryview) -> None:
        """Write and verify the next bytes. When this returns, *content* can be reused.

        Raises:
            StorageFailed: if they can't be written: the ingest is as before, and takes no more.
        """

    def verify(self, size: int | None) -> None:
        """Check that the bytes are the whole content.

        Raises:
            IntegrityError: if the size or the digest differs.
        """

    async def commit(self) -> None:
        """Turn the verified content into a blob. When this returns, the blob survives a power failure.

        Raises:
            StorageFailed: if it could not be made durable; nothing became visible.
        """

    def restart(self) -> None:
        """Delete the bytes received so far."""


class Inspection(AbstractContextManager["Inspection"], Protocol):
    """The file of one blob, read from beginning to end and verified. Its methods block: use a thread.

    Entering the context opens the file.

    Raises:
        StorageFailed: if it can't be opened. That alone is not damage.

    Attributes:
        is_over: whether the whole file was read and verified.
    """

    is_over: bool

    @property
    def seen(self) -> os.stat_result:
        """The status of the inspected file: another file may have replaced it by now."""

    @property
    def at(self) -> int:
        """The bytes read so far."""

    def read(self, limit: int) -> None:
        """Read up to *limit* of the next bytes; at the end of the file, verify the whole.

        Raises:
            StorageFailed: if the disk can't read them.
            IntegrityError: if the content has another digest.
        """


class CacheFiles(Protocol):
    """The files of one cache directory, for commands that read them beside the process that has locked it.

    All methods block. Any file may disappear at any time, by eviction.
    """

    @property
    def path(self) -> Path:
        """The cache directory."""

    def exist(self) -> bool:
        """Return whether a mirror made the directory; True also if that can't be found out: opening it says why."""

    def blobs(self) -> Iterator[tuple[Digest, os.stat_result]]:
        """Yield every blob with the status of its file.

        Raises:
            StorageFailed: if the directory can't be read.
        """

    def open(self, digest: Digest) -> BinaryIO:
        """Open the file of a blob.

        Raises:
            StorageFailed: if it can't be opened, or does not exist.
        """

    def inspection(self, digest: Digest) -> Inspection | None:
        """Return an inspection of a blob, whose size is not known; None if it does not exist."""


class BlobStore(Protocol):
    """The blobs and ingests of one cache directory, by digest."""

    def __len__(self) -> int:
        """Return the number of blobs."""

    def __contains__(self, digest: object) -> bool: ...

    @property
    def occupied(self) -> int:
        """The bytes of all blobs and ingests, with the space reserved for ingests."""

    @property
    def limit(self) -> int:
        """The limit of `occupied`: max_size."""

    def digests(self, *, after: Digest | None = None) -> AsyncIterator[Digest]:
        """Yield the digests that are stored, in the order of their hex digits, from *after* on. For maintenance."""

    def size(self, digest: Digest) -> int | None:
        """Return the bytes of a blob; None if it is not stored."""

    def last_use(self, digest: Digest) -> float | None:
        """Return when a blob was used last, in seconds since the epoch; None if it is not stored."""

    def use(self, digest: Digest) -> None:
        """Record a use of the blob and, if it is a manifest, of the content that it references."""

    def hold(self, digest: Digest) -> AbstractAsyncContextManager[None]:
        """Keep a blob from eviction, also one that is not stored yet. Waits for an eviction of it that has begun."""

    def open(self, digest: Digest) -> AbstractAsyncContextManager[StoredReadable | None]:
        """Hold and open a blob; None if it is not stored, or can't be read and must be fetched again."""

    async def read(self, digest: Digest) -> bytes | None:
        """Return the content of a small blob; None if it is not stored. This does not count as a use."""

    async def read_documents(self, digests: Sequence[Digest]) -> Mapping[Digest, bytes]:
        """Return the content of those blobs that can be JSON documents. For rebuilding; unverified."""

    async def put(self, digest: Digest, content: bytes) -> None:
        """Store small content that is already verified. When this returns, the blob survives a power failure.

        Raises:
            NoSpace: if there is no space within max_size and min_free.
            StorageFailed: if it can't be written.
        """

    def ingest(self, digest: Digest) -> AbstractAsyncContextManager[Ingest]:
        """Open the one ingest of a digest, with the bytes of an earlier attempt. Waits while it is open elsewhere.

        Raises:
            StorageFailed: if the directory is known to be unwritable.
        """

    async def has_space(self, size: int) -> bool:
        """Return whether *size* bytes could be stored now, also by eviction. Evicts nothing."""

    async def reserve(self, size: int) -> None:
        """Reserve *size* bytes and evict blobs for them; 0 enforces max_size and min_free.

        Raises:
            NoSpace: if max_size and min_free can't both be kept; nothing was evicted then.
            StorageFailed: if a file can't be removed.
        """

    async def discard(self, digest: Digest, *, unused_since: float | None = None) -> int:
        """Remove a blob that is not held, with all facts about it. Return the bytes that became free.

        Args:
            unused_since: keep a blob that was used after this time (seconds since the epoch), or stored.

        Raises:
            StorageFailed: if it can't be removed.
        """

    def inspection(self, digest: Digest) -> Inspection | None:
        """Return an inspection of a blob; None if it is not stored."""

    def correct_size(self, digest: Digest, size: int) -> None:
        """Record the bytes of a blob that was verified just now: the row of its size may be damaged."""

    async def condemn(self, digest: Digest, reason: str, *, seen: os.stat_result | None = None) -> None:
        """Remove a blob that was found to be damaged, with all facts about it.

        Args:
            seen: the file that was found to be damaged; another one in its place is kept.
        """

    async def forget_ingests(self, *, older_than: float) -> None:
        """Remove the files that interrupted downloads left more than *older_than* seconds ago.

        Raises:
            StorageFailed: if a file can't be removed.
        """

    async def flush(self) -> None:
        """Write the sizes and last uses that changed to the fact store. They survive a crash of the process."""

    async def mend(self) -> None:
        """Try a directory that failed again, and reload one that was replaced by another. For maintenance.

        Raises:
            StorageFailed: if it can't be written.
        """

    def failed(self, error: StorageFailed) -> None:
        """Note that the directory can't be written."""


class Health(Protocol):
    """The health of the cache directory; `str` of it is "ok" or the failure."""

    @property
    def is_writable(self) -> bool:
        """Whether the last write succeeded. While it is False, pulls pass through unstored."""


class ImageIndexFile(Protocol):
    """The index.json of the cache directory, which names its images for other programs and for a lost fact store."""

    async def read_index(self) -> bytes | None:
        """Return its content; None if it can't be read, or is too large to be one."""

    async def write_index(self, content: bytes) -> None:
        """Replace it. When this returns, the new content survives a power failure.

        Raises:
            StorageFailed: if the file can't be written; its previous content stays.
        """


class UsageStore(Protocol):
    """The facts that the blob store itself keeps: sizes and last uses. They can be rebuilt and are not synced."""

    async def load_blobs(self, take: Callable[[Sequence[NamedBlob]], None]) -> None:
        """Call *take*, on another thread, with all blobs that have a row, some at a time."""

    async def keep_blobs(self, rows: Sequence[BlobRow]) -> bool:
        """Write the sizes and last uses of these blobs. Return whether that succeeded."""

    def forget_content(self, digests: Iterable[Digest]) -> None:
        """Delete all facts about content that was removed. They are unknown at once, and deleted in the background.

        Facts about it that are written after this call are kept.
        """

    async def note_directory(self, identity: Sequence[tuple[int, int]]) -> bool:
        """Record device and inode of the directories. Return whether they are those that were recorded before."""

    async def manifests(self, digests: Iterable[Digest]) -> Mapping[Digest, ManifestFact]:
        """Return those of *digests* that are known as manifests: a use of a manifest is also one of its references."""


class FactStore(UsageStore, Protocol):
    """All facts: small, mutable, and kept over a restart.

    A fact is readable when the call that keeps it returns, also where the disk is full. It survives a crash of the
    process then, but a power failure only after `sync`. A fact that can't be read counts as unknown. A method that
    returns several facts raises StorageFailed if they can't be read: they must not be taken for all that there are.
    """

    async def tag(self, repository: Repository, tag: Tag) -> TagFact | None: ...

    async def keep_tag(self, repository: Repository, tag: Tag, fact: TagFact) -> None: ...

    async def drop_tag(self, repository: Repository, tag: Tag) -> None: ...

    async def all_tags(self) -> Mapping[tuple[Repository, Tag], TagFact]:
        """Return all tags of all repositories."""

    async def manifest(self, digest: Digest) -> ManifestFact | None: ...

    async def keep_manifest(self, digest: Digest, fact: ManifestFact) -> None: ...

    async def add_manifests(self, facts: Mapping[Digest, ManifestFact]) -> bool:
        """Add those of *facts* whose manifests have none yet. Return whether that succeeded."""

    async def held(self, repository: Repository) -> Mapping[Digest, HeldFact]:
        """Return the repository's rights with rows, without those to digests that its manifests reference."""

    async def all_held(self) -> Mapping[Repository, Mapping[Digest, HeldFact]]:
        """Return the same for every repository."""

    async def keep_held(self, repository: Repository, digest: Digest, fact: HeldFact) -> None:
        """Record the repository's right to a digest: one row, however many rights it has."""

    async def drop_held(self, repository: Repository, digests: Iterable[Digest]) -> None:
        """Delete the repository's rights to these digests: all at once, before any right that is kept later."""

    def listen(self, forgotten: Callable[[AbstractSet[Digest]], None], replaced: Callable[[], None]) -> None:
        """Call these on the event loop whenever facts are lost.

        Args:
            forgotten: called with the digests of each `forget_content`, before it returns.
            replaced: called after the database was replaced by a new one: every fact may be lost.
        """

    async def pins(self) -> frozenset[Image]:
        """Return the images that are never evicted."""

    async def keep_pin(self, image: Image) -> None: ...

    async def drop_pin(self, image: Image) -> None: ...

    @property
    def replaced(self) -> str | None:
        """Why the database was replaced by a new one; None if it was not."""

    async def is_rebuilt(self, part: str) -> bool:
        """Return whether *part* ("names", "manifests") holds all that can be rebuilt. A new database does not."""

    async def keep_rebuilt(self, part: str) -> None: ...

    async def scrubbed(self) -> Digest | None:
        """Return the blob that the scrub inspected last."""

    async def keep_scrubbed(self, digest: Digest | None) -> None: ...

    async def sync(self) -> None:
        """Make everything kept so far survive a power failure.

        Raises:
            StorageFailed: if something could not be written, or not be synced.
        """

    async def mend(self) -> None:
        """Write the rows that could not be written before, and replace a damaged database. For maintenance.

        Raises:
            StorageFailed: if it can't be replaced.
        """
