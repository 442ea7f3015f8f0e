"""The catalog: what is known of stored content. The ledger's facts, with those in use at hand in memory.

Bytes are shared between repositories, rights are not: a digest is known to be a repository's own when upstream
answered for it under that repository, or when a manifest of that repository references it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable

from mirror.oci.digest import Digest
from mirror.oci.manifest import LARGEST, Manifest
from mirror.oci.names import Repository, Tag
from mirror.primitives.lru import LruCache
from mirror.storage.facts import ManifestFact, TagFact
from mirror.storage.protocols import BlobStore, Ledger

_MANIFEST_BYTES = 32 * 2**20  # of memory for manifests
_TAGS = 65_536
_SIZES = 262_144
_REPOSITORIES = 4_096
_DEEPEST = 8  # an image has two levels, the index of a release of several three


class Catalog:
    """Facts about tags, manifests and repositories."""

    def __init__(self, store: BlobStore, ledger: Ledger) -> None:
        self._store = store
        self._ledger = ledger
        self._tags = LruCache[tuple[Repository, Tag], TagFact](_TAGS)
        self._manifests = LruCache[Digest, Manifest](_MANIFEST_BYTES, weigh=lambda manifest: len(manifest.body) + 1024)
        self._sizes = LruCache[tuple[Repository, Digest], int](_SIZES)
        self._holdings = LruCache[Repository, _Holdings](_REPOSITORIES)
        self._named: defaultdict[Repository, set[Tag]] | None = None  # all tags, once somebody has asked for a list
        self._naming = asyncio.Lock()

    def tag_nowait(self, repository: Repository, tag: Tag) -> TagFact | None:
        """As `tag`, if that is in memory; None also where it is not."""
        return self._tags.get((repository, tag))

    async def tag(self, repository: Repository, tag: Tag) -> TagFact | None:
        """What upstream last said of the tag; None where it said nothing, or that there is none."""
        fact = self.tag_nowait(repository, tag)
        if fact is None:
            fact = await self._ledger.tag(repository, tag)
            if fact is not None:
                self._tags.set((repository, tag), fact)
        return fact

    async def tags(self, repository: Repository) -> dict[Tag, TagFact]:
        """What is known of all the tags of a repository."""
        async with self._naming:
            if self._named is None:
                self._named = defaultdict(set)  # from now on, what is new is noted: also while the ledger is read
                for named, tag in await self._ledger.tag_names():
                    self._named[named].add(tag)
        facts = {tag: await self.tag(repository, tag) for tag in tuple(self._named.get(repository, ()))}
        return {tag: fact for tag, fact in facts.items() if fact is not None}

    async def keep_tag(self, repository: Repository, tag: Tag, fact: TagFact) -> None:
        if self._named is not None:
            self._named[repository].add(tag)
        self._tags.set((repository, tag), fact)
        await self._ledger.keep_tag(repository, tag, fact)

    async def drop_tag(self, repository: Repository, tag: Tag) -> None:
        self._tags.delete((repository, tag))
        await self._ledger.drop_tag(repository, tag)

    def manifest_nowait(self, repository: Repository, digest: Digest) -> Manifest | None:
        """The stored manifest, if it is in memory and known to be this repository's own; None also where it is not."""
        holdings = self._holdings.get(repository)
        if holdings is None or digest not in holdings.all or digest not in self._store:
            return None
        return self._manifests.get(digest)

    def has(self, digest: Digest) -> bool:
        """Whether it is stored."""
        return digest in self._store

    async def manifest(self, digest: Digest) -> Manifest | None:
        """The stored manifest; None where it is not stored, or is no manifest.

        Raises:
            StorageFailed
        """
        if digest not in self._store:
            return None
        manifest = self._manifests.get(digest)
        if manifest is None:
            manifest = await self._read(digest)
            if manifest is not None:
                self._manifests.set(digest, manifest)
        return manifest

    async def _read(self, digest: Digest) -> Manifest | None:
        fact = await self._ledger.manifest(digest)
        if fact is None and (self._store.size(digest) or LARGEST) >= LARGEST:
            return None  # the ledger does not know it, and it is too large for a manifest: a layer
        body = await self._store.read(digest)
        if body is None:
            return None
        if Digest.of(body, digest.algorithm) != digest:
            await self._store.condemn(digest, "its bytes have another digest")
            return None
        manifest = Manifest.read(digest, body, None if fact is None else fact.media_type)
        return manifest if fact is not None or manifest.references else None

    async def keep_manifest(self, repository: Repository, manifest: Manifest) -> None:
        """Stores a manifest, and that it is this repository's own.

        Raises:
            StorageFailed: it could not be stored (NoSpace: for lack of room); nothing is kept.
        """
        references = tuple(reference.digest for reference in manifest.references)
        # The facts first: content whose media type is not known would be the worse half to have alone.
        await self._ledger.keep_manifest(manifest.digest, ManifestFact(manifest.head.media_type or "", references))
        await self._store.put(manifest.digest, manifest.body)
        self._manifests.set(manifest.digest, manifest)
        self.expect(repository, manifest)
        await self._keep_root(repository, manifest.digest, references)

    def expect(self, repository: Repository, manifest: Manifest) -> None:
        """Notes the sizes of what a manifest references, stored or not.

        For its own repository only: what one says of a shared layer must not mislead those who pull another.
        """
        for reference in manifest.references:
            if reference.size is not None:
                self.expect_size(repository, reference.digest, reference.size)

    def expect_size(self, repository: Repository, digest: Digest, size: int) -> None:
        self._sizes.set((repository, digest), size)

    def expected_size(self, repository: Repository, digest: Digest) -> int | None:
        """Bytes that a manifest of this repository said *digest* has; None where none did lately."""
        return self._sizes.get((repository, digest))

    async def holds(self, repository: Repository, digest: Digest) -> bool:
        """Whether *digest* is known to be this repository's own."""
        return digest in (await self._held_by(repository)).all

    async def keep_holding(self, repository: Repository, digest: Digest) -> None:
        """Notes that *digest* is this repository's own."""
        if not await self.holds(repository, digest):
            await self._keep_root(repository, digest, ())

    async def drop_holding(self, repository: Repository, digest: Digest) -> None:
        """Forgets that *digest* is this repository's own, with what it alone gave the right to."""
        roots = set(await self._ledger.holdings(repository)) - {digest}
        await self._ledger.keep_holdings(repository, roots)
        self._holdings.delete(repository)

    async def _keep_root(self, repository: Repository, digest: Digest, references: Iterable[Digest]) -> None:
        """Notes a digest that stands for itself and what it references: all that the ledger has to keep."""
        holdings = await self._held_by(repository)
        holdings.all.add(digest)
        holdings.all.update(references)
        if digest not in holdings.roots:
            holdings.roots.add(digest)
            await self._ledger.keep_holdings(repository, tuple(holdings.roots))

    async def _held_by(self, repository: Repository) -> _Holdings:
        holdings = self._holdings.get(repository)
        if holdings is None:
            roots = set(await self._ledger.holdings(repository))
            held = set(roots)
            for root in roots:
                fact = await self._ledger.manifest(root)
                held.update(fact.references if fact is not None else ())
            # Another asker may have been here meanwhile: there is only one set of a repository's holdings.
            holdings = self._holdings.get(repository) or _Holdings(roots, held)
            self._holdings.set(repository, holdings)
        return holdings

    async def referrers(self, repository: Repository, subject: Digest) -> list[Manifest]:
        """The stored manifests, known to be this repository's own, that refer to *subject*.

        Raises:
            StorageFailed
        """
        holdings = await self._held_by(repository)
        for root in holdings.roots - holdings.looked_at:
            manifest = await self.manifest(root)
            if manifest is not None and manifest.subject is not None:
                holdings.referrers[manifest.subject].add(root)
            if root in self._store:  # what is not may come again, and be a manifest
                holdings.looked_at.add(root)
        found = [await self.manifest(digest) for digest in tuple(holdings.referrers.get(subject, ()))]
        return [manifest for manifest in found if manifest is not None]

    async def is_complete(self, digest: Digest, *, arrived: Callable[[Digest], bool], deep: int = _DEEPEST) -> bool:
        """Whether a client that gets this manifest can get all that it will ask for next.

        Of an index, what is stored must be complete, and that must be something: nobody pulls all its platforms.

        Args:
            arrived: whether a blob that is not stored is here all the same.
            deep: how many levels of indexes are looked into; what is nested deeper is nobody's image.

        Raises:
            StorageFailed
        """
        manifest = await self.manifest(digest)
        if manifest is None or not deep:
            return False
        here = [one.digest for one in manifest.references if one.digest in self._store or arrived(one.digest)]
        if not manifest.is_index:
            return len(here) == len(manifest.references)
        complete = [await self.is_complete(child, arrived=arrived, deep=deep - 1) for child in here]
        return bool(complete) and all(complete)


class _Holdings:
    """What one repository holds: roots as the ledger has them, and all with what the roots reference.

    Of those *looked_at* it is known which refer to which subject.
    """

    __slots__ = ("all", "looked_at", "referrers", "roots")

    def __init__(self, roots: set[Digest], held: set[Digest]) -> None:
        self.roots = roots
        self.all = held
        self.looked_at = set[Digest]()
        self.referrers = defaultdict[Digest, set[Digest]](set)
