"""Catalog of tags, manifests and rights: the fact store with an LRU cache in memory.

Blobs are shared between repositories, rights are not: a repository has a right to a digest if its upstream sent or
confirmed the digest under that repository, if a bundle contained it for that repository, or if a manifest to which the
repository has a right references it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from mirror.errors import StorageFailed
from mirror.oci.digest import Digest
from mirror.oci.manifest import LARGEST, Manifest
from mirror.oci.names import Repository, Tag
from mirror.primitives.lru import LruCache
from mirror.primitives.singleflight import KeyedLock
from mirror.storage.facts import HeldFact, ManifestFact, Proof, TagFact
from mirror.storage.protocols import BlobStore, FactStore

_MANIFEST_BYTES = 32 * 2**20  # of memory, for manifests
_TAGS = 65_536
_SIZES = 262_144
_REPOSITORIES = 4_096
_MAX_DEPTH = 8  # an image has two levels; an index of the images of a release has three


class Catalog:
    """Tags, manifests, and the rights of repositories.

    Attributes:
        names_changed: whether an image, or its import, changed since index.json was written.
    """

    def __init__(self, store: BlobStore, facts: FactStore) -> None:
        self.names_changed = False
        self._store = store
        self._facts = facts
        self._tags = LruCache[tuple[Repository, Tag], TagFact](_TAGS)
        self._manifests = LruCache[Digest, Manifest](_MANIFEST_BYTES, weigh=lambda manifest: len(manifest.body) + 1024)
        self._sizes = LruCache[tuple[Repository, Digest], int](_SIZES)
        self._holdings = LruCache[Repository, _Holdings](_REPOSITORIES)
        self._storing = KeyedLock[Digest]()
        self._loads: set[_Load] = set()
        facts.listen(self._forget, self._forget_all)
        self._named: defaultdict[Repository, set[Tag]] | None = None  # all tags, after the first listing
        self._new_names: list[tuple[Repository, Tag]] | None = None  # names that become known during that listing
        self._naming = asyncio.Lock()

    def tag_nowait(self, repository: Repository, tag: Tag) -> TagFact | None:
        """Return the result of `tag()` if it is in memory, else None."""
        return self._tags.get((repository, tag))

    async def tag(self, repository: Repository, tag: Tag) -> TagFact | None:
        """Return the upstream's last answer about the tag; None if there is none, or if it was a 404."""
        fact = self.tag_nowait(repository, tag)
        if fact is None:
            fact = await self._facts.tag(repository, tag)
            if fact is not None:
                self._tags.set((repository, tag), fact)
        return fact

    async def tags(self, repository: Repository) -> dict[Tag, TagFact]:
        """Return all known tags of a repository.

        Raises:
            StorageFailed: if they can't be read.
        """
        async with self._naming:
            if self._named is None:
                self._named = await self._names()
            names = tuple(self._named.get(repository, ()))
        facts = {tag: await self.tag(repository, tag) for tag in names}
        return {tag: fact for tag, fact in facts.items() if fact is not None}

    async def _names(self) -> defaultdict[Repository, set[Tag]]:
        """Return all names, and those that become known while they are read.

        Raises:
            StorageFailed: if they can't be read.
        """
        self._new_names = []
        try:
            names = defaultdict[Repository, set[Tag]](set)
            for repository, tag in [*await self._facts.all_tags(), *self._new_names]:
                names[repository].add(tag)
            return names
        finally:
            self._new_names = None

    async def keep_tag(self, repository: Repository, tag: Tag, fact: TagFact) -> None:
        if self._named is not None:
            self._named[repository].add(tag)
        elif self._new_names is not None:
            self._new_names.append((repository, tag))
        before = self._tags.get((repository, tag))
        self.names_changed |= before is None or before.digest != fact.digest
        self._tags.set((repository, tag), fact)
        await self._facts.keep_tag(repository, tag, fact)

    async def drop_tag(self, repository: Repository, tag: Tag) -> None:
        self.names_changed = True
        self._tags.delete((repository, tag))
        await self._facts.drop_tag(repository, tag)

    def manifest_nowait(self, repository: Repository, digest: Digest) -> Manifest | None:
        """Return the manifest if it is stored and in memory, and the repository has a right to it; else None."""
        holdings = self._holdings.get(repository)
        if holdings is None or digest not in holdings or digest not in self._store:
            return None
        return self._manifests.get(digest)

    def has(self, digest: Digest) -> bool:
        """Return whether the content is stored."""
        return digest in self._store

    async def manifest(self, digest: Digest) -> Manifest | None:
        """Return the manifest *digest*; None if it is not stored, or not a manifest.

        Raises:
            StorageFailed: if the cache directory can't be read.
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
        fact = await self._facts.manifest(digest)
        if fact is None and (self._store.size(digest) or LARGEST) >= LARGEST:
            return None  # without a fact, and too large for a manifest: a layer
        body = await self._store.read(digest)
        if body is None:
            return None
        if Digest.of(body, digest.algorithm) != digest:
            await self._store.condemn(digest, "its bytes have another digest")
            return None
        manifest = Manifest.read(digest, body, None if fact is None else fact.media_type)
        return manifest if fact is not None or manifest.references else None

    async def keep_manifest(self, repository: Repository, manifest: Manifest, *, proof: Proof = "pulled") -> None:
        """Store a manifest, and record the repository's right to it, with its proof.

        Raises:
            StorageFailed: if it could not be stored (NoSpace: for lack of space); nothing is kept.
        """
        # Serialized: if one writer of a manifest fails, it deletes the right, and a concurrent writer would lose it.
        async with self._storing.hold(manifest.digest), self._store.hold(manifest.digest):
            # The facts first: a crash in between must leave no manifest of unknown media type or without a right.
            await self._keep_facts(repository, manifest, proof)
            try:
                await self._store.put(manifest.digest, manifest.body)
            except StorageFailed:
                if manifest.digest not in self._store:
                    await self.drop_holdings(repository, [manifest.digest])
                raise
            self._manifests.set(manifest.digest, manifest)
            self.names_changed = True  # again: index.json may have been written while the manifest was not stored
            if not (await self._held_by(repository)).has_row(manifest.digest):  # a damaged copy was removed meanwhile
                await self._keep_facts(repository, manifest, proof)
        self.expect(repository, manifest)

    async def _keep_facts(self, repository: Repository, manifest: Manifest, proof: Proof) -> None:
        digest, media_type = manifest.digest, manifest.head.media_type or ""
        references = tuple(reference.digest for reference in manifest.references)
        await self._facts.keep_manifest(digest, ManifestFact(media_type, references))
        holdings = await self._held_by(repository)
        before = holdings.proof(digest)
        if before is None or (proof == "imported" and before != "imported"):
            self.names_changed = True
            holdings.add_manifest(digest, proof, references)
            await self._facts.keep_held(repository, digest, HeldFact(media_type, proof, time.time()))

    def expect(self, repository: Repository, manifest: Manifest) -> None:
        """Remember the sizes of all blobs and manifests that a manifest references, stored or not.

        For its own repository only: a wrong size for a shared layer must not mislead pulls from other repositories.
        """
        for reference in manifest.references:
            if reference.size is not None:
                self.expect_size(repository, reference.digest, reference.size)

    def expect_size(self, repository: Repository, digest: Digest, size: int) -> None:
        self._sizes.set((repository, digest), size)

    def expected_size(self, repository: Repository, digest: Digest) -> int | None:
        """Return the size of *digest* according to a manifest of this repository; None if none is remembered."""
        return self._sizes.get((repository, digest))

    async def holds(self, repository: Repository, digest: Digest) -> bool:
        """Return whether the repository has a right to *digest*."""
        return digest in await self._held_by(repository)

    async def keep_holding(self, repository: Repository, digest: Digest, proof: Proof) -> None:
        """Record the repository's right to a blob, with its proof: the right then depends on no manifest."""
        async with self._store.hold(digest):
            holdings = await self._held_by(repository)
            if holdings.has_row(digest):
                return
            holdings.add_blob(digest)
            await self._facts.keep_held(repository, digest, HeldFact(None, proof, time.time()))

    async def drop_holdings(self, repository: Repository, digests: Iterable[Digest]) -> None:
        """Delete the rights of the repository to these digests, and to digests that only they reference."""
        self.names_changed = True
        holdings = await self._held_by(repository)
        held = {digest for digest in digests if holdings.has_row(digest)}
        holdings.remove(held)
        await self._facts.drop_held(repository, held)

    async def _held_by(self, repository: Repository) -> _Holdings:
        while (holdings := self._holdings.get(repository)) is None:
            load = _Load()
            self._loads.add(load)
            try:
                rows = await self._facts.held(repository)
                manifests = await self._facts.manifests([digest for digest, fact in rows.items() if fact.is_manifest])
                loaded = await asyncio.to_thread(_Holdings, rows, manifests)
            except StorageFailed:
                return _Holdings({}, {})  # unknown: the upstream is asked
            finally:
                self._loads.discard(load)
            if not load.is_void:
                loaded.remove(load.forgotten)
                # Another task may have loaded them meanwhile: a repository's rights are in memory only once.
                if repository not in self._holdings:
                    self._holdings.set(repository, loaded)
        return holdings

    def _forget(self, digests: AbstractSet[Digest]) -> None:
        """Forget the rights to blobs that were removed, as the fact store does."""
        for holdings in self._holdings.values():
            self.names_changed |= holdings.remove(digests)
        for load in self._loads:
            load.forgotten |= digests

    def _forget_all(self) -> None:
        """Forget all facts, because the fact store lost its rows: a fact in memory would never be written again."""
        self.names_changed = True
        self._tags.clear()
        self._holdings.clear()
        self._named = None
        for load in self._loads:
            load.is_void = True

    async def referrers(self, repository: Repository, subject: Digest) -> list[Manifest]:
        """Return the referrers of *subject* that are stored and to which the repository has a right.

        Raises:
            StorageFailed: if the cache directory can't be read.
        """
        holdings = await self._held_by(repository)
        for root in holdings.manifests - holdings.inspected:
            manifest = await self.manifest(root)
            if manifest is not None and manifest.subject is not None:
                holdings.referrers[manifest.subject].add(root)
            if root in self._store:  # a manifest that is not stored may be fetched again, with its subject
                holdings.inspected.add(root)
        found = [await self.manifest(digest) for digest in tuple(holdings.referrers.get(subject, ()))]
        return [manifest for manifest in found if manifest is not None]

    async def is_complete(self, digest: Digest, *, arrived: Callable[[Digest], bool]) -> bool:
        """Return whether the cache can serve everything that a client requests after this manifest.

        Of an index at least one manifest must be stored, and every stored one complete: no client pulls all platforms.

        Args:
            arrived: returns whether a blob is verified, although it is not stored yet.

        Raises:
            StorageFailed: if the cache directory can't be read.
        """
        return await self._is_complete(digest, arrived, _MAX_DEPTH, {})

    async def _is_complete(
        self, digest: Digest, arrived: Callable[[Digest], bool], depth: int, known: dict[tuple[Digest, int], bool]
    ) -> bool:
        """Like `is_complete`, to a depth of *depth*.

        *known* caches results, because a digest can be reached on many paths.
        """
        if (digest, depth) not in known:
            known[digest, depth] = await self._inspect(digest, arrived, depth, known)
        return known[digest, depth]

    async def _inspect(
        self, digest: Digest, arrived: Callable[[Digest], bool], depth: int, known: dict[tuple[Digest, int], bool]
    ) -> bool:
        manifest = await self.manifest(digest)
        if manifest is None or not depth:
            return False
        here = [one.digest for one in manifest.references if one.digest in self._store or arrived(one.digest)]
        if not manifest.is_index:
            return len(here) == len(manifest.references)
        complete = [await self._is_complete(child, arrived, depth - 1, known) for child in here]
        return bool(complete) and all(complete)


@dataclass(eq=False, slots=True)
class _Load:
    """A load of the rights of one repository, while it reads.

    Attributes:
        forgotten: the digests whose facts were deleted meanwhile.
        is_void: whether the fact store lost its rows meanwhile.
    """

    forgotten: set[Digest] = field(default_factory=set)
    is_void: bool = False


@dataclass(frozen=True, slots=True)
class _Root:
    """A manifest whose right has a row, and so does not depend on other manifests."""

    proof: Proof
    references: tuple[Digest, ...]


class _Holdings:
    """The rights of one repository, in memory: they agree with the rows of the fact store.

    Attributes:
        inspected: the manifests whose subject is known.
        referrers: the inspected manifests by subject.
    """

    __slots__ = ("_blobs", "_references", "_roots", "inspected", "referrers")

    def __init__(self, rows: Mapping[Digest, HeldFact], manifests: Mapping[Digest, ManifestFact]) -> None:
        """Create the rights from their *rows*; *manifests* has the facts of the digests that are manifests."""
        self._roots: dict[Digest, _Root] = {}
        self._blobs = {digest for digest, fact in rows.items() if not fact.is_manifest}
        self._references = Counter[Digest]()  # by digest, how many roots reference it
        self.inspected = set[Digest]()
        self.referrers = defaultdict[Digest, set[Digest]](set)
        for digest, fact in rows.items():
            if fact.is_manifest:
                known = manifests.get(digest)
                self.add_manifest(digest, fact.proof, () if known is None else known.references)

    def __contains__(self, digest: Digest) -> bool:
        """Return whether the repository has a right to *digest*: by its row, or because a manifest references it."""
        return digest in self._roots or digest in self._references or digest in self._blobs

    @property
    def manifests(self) -> AbstractSet[Digest]:
        """The manifests whose right has a row."""
        return self._roots.keys()

    def has_row(self, digest: Digest) -> bool:
        return digest in self._roots or digest in self._blobs

    def proof(self, digest: Digest) -> Proof | None:
        """Return the proof of the right to a manifest; None if the right has no row."""
        root = self._roots.get(digest)
        return None if root is None else root.proof

    def add_manifest(self, digest: Digest, proof: Proof, references: Iterable[Digest]) -> None:
        self._remove(digest)
        root = self._roots[digest] = _Root(proof, tuple(references))
        self._references.update(root.references)

    def add_blob(self, digest: Digest) -> None:
        self._blobs.add(digest)

    def remove(self, digests: AbstractSet[Digest]) -> bool:
        """Remove the rights to these digests that have rows. Return whether one was a right to a manifest.

        Takes time for the smaller of both sets.
        """
        manifests = digests & self._roots.keys()
        for digest in manifests | (digests & self._blobs):
            self._remove(digest)
        return bool(manifests)

    def _remove(self, digest: Digest) -> None:
        self._blobs.discard(digest)
        self.inspected.discard(digest)
        root = self._roots.pop(digest, None)
        if root is not None:
            self._references.subtract(root.references)
            for reference in root.references:
                if self._references[reference] <= 0:
                    del self._references[reference]
