"""Bytes and facts at rest, behind narrow protocols.

Content goes through a one-way door: an ingest holds bytes that arrive, and only `commit`, after verification, makes
them a blob. A blob never changes; it is there or it is not. Whoever reads one holds it, and what is held
is not evicted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from mirror.errors import StorageFailed
from mirror.oci.digest import Digest, Verifier
from mirror.oci.names import Repository, Tag
from mirror.storage.facts import ManifestFact, TagFact


class Readable(Protocol):
    """Content that can be read now, or is arriving."""

    @property
    def size(self) -> int:
        """Bytes of the whole content."""

    def fileno(self) -> int:
        """A descriptor of the file that holds the content. Shared: read at offsets, never move its position."""

    async def reach(self, offset: int) -> int:
        """Waits until content beyond *offset* may be read, and says how far: an offset greater than this one, or
        the size at the end.

        Raises:
            MirrorError: it will never come.
        """


class StoredReadable(Readable, Protocol):
    """A committed blob, open for reading."""

    def failed(self, error: StorageFailed) -> None:
        """Report that the disk does not return the content: it counts as absent until the disk is checked again."""


class Ingest(Protocol):
    """Content on its way in. Leaving its context without a commit keeps what arrived, for another try."""

    @property
    def written(self) -> int:
        """Bytes that are here, those of earlier tries included."""

    def fileno(self) -> int: ...

    @property
    def is_complete(self) -> bool:
        """Whether what is here is all of it, and right: an earlier try came so far."""

    def verification(self) -> Verifier:
        """The verification of what is written, for whoever takes the rest elsewhere."""

    async def reserve(self, size: int) -> None:
        """Makes room for *size* bytes in all, before they arrive.

        Raises:
            NoSpace: evicting all that nobody holds would not do.
        """

    async def append(self, content: memoryview) -> None:
        """Writes the next bytes and takes them into the verification. They are done with when this returns.

        Raises:
            StorageFailed: they could not be written; it is as if they had not come, and no more can.
        """

    def verify(self, size: int | None) -> None:
        """Accepts what was appended as the whole content.

        Raises:
            IntegrityError: size or digest are others; the ingest is void.
        """

    async def commit(self) -> None:
        """Makes the verified content a blob that outlasts a power failure.

        Raises:
            StorageFailed: it could not be made durable; nothing became visible.
        """

    def restart(self) -> None:
        """Forgets what arrived: the next piece is the first."""


class BlobStore(Protocol):
    """The content, by digest."""

    def __contains__(self, digest: object) -> bool: ...

    def size(self, digest: Digest) -> int | None:
        """Bytes of a stored blob; None where it is not stored."""

    async def has_room(self, size: int) -> bool:
        """Whether *size* bytes could be stored now, evicting what may go for them. Evicts nothing."""

    async def condemn(self, digest: Digest, reason: str) -> None:
        """Removes a blob that was found to be damaged."""

    def use(self, digest: Digest) -> None:
        """Notes that the blob, and what it references if it is a manifest, was used just now."""

    def open(self, digest: Digest) -> AbstractAsyncContextManager[StoredReadable | None]:
        """Holds a blob and opens it; None where it is not stored, or can't be read and is to be had anew."""

    def hold(self, digest: Digest) -> AbstractAsyncContextManager[None]:
        """Keeps a blob, or what will be one, from eviction."""

    async def read(self, digest: Digest) -> bytes | None:
        """All of a small blob; None where it is not stored. No use of it: whoever looks at what there is reads, too."""

    async def put(self, digest: Digest, content: bytes) -> None:
        """Stores small content that is already verified.

        Raises:
            NoSpace, StorageFailed
        """

    def ingest(self, digest: Digest) -> AbstractAsyncContextManager[Ingest]:
        """Opens the one ingest of this digest, with what an earlier try left in it. Waits while another has it open."""


class Ledger(Protocol):
    """The facts: small, changing, and there again after a restart."""

    async def tag(self, repository: Repository, tag: Tag) -> TagFact | None: ...

    async def keep_tag(self, repository: Repository, tag: Tag, fact: TagFact) -> None: ...

    async def drop_tag(self, repository: Repository, tag: Tag) -> None: ...

    async def tag_names(self) -> Iterable[tuple[Repository, Tag]]:
        """All tags of all repositories of which something may be known."""

    async def manifest(self, digest: Digest) -> ManifestFact | None: ...

    async def manifests(self, digests: Iterable[Digest]) -> Mapping[Digest, ManifestFact]:
        """Those of *digests* that are known as manifests."""

    async def keep_manifest(self, digest: Digest, fact: ManifestFact) -> None: ...

    async def holdings(self, repository: Repository) -> frozenset[Digest]:
        """The digests that this repository was seen to hold, without those that its manifests reference."""

    async def keep_holdings(self, repository: Repository, digests: Iterable[Digest]) -> None: ...

    async def uses(self) -> Mapping[Digest, float]:
        """When each blob was last used, in seconds since the epoch."""

    async def keep_uses(self, uses: Mapping[Digest, float]) -> bool:
        """Replaces what is known of last uses; whether that worked."""
