"""Catalog of tags, manifests and rights: the fact store with an LRU cache in memory.

Bytes are shared between repositories, rights are not: a repository holds a digest if its upstream sent or confirmed it
under that repository, if a bundle brought it, or if a manifest that the repository holds references it.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from mirror.oci.digest import Digest
from mirror.oci.manifest import LARGEST, Manifest
from mirror.oci.names import Repository, Tag
from mirror.primitives.lru import LruCache
from mirror.storage.facts import HeldFact, ManifestFact, Proof, TagFact
from mirror.storage.protocols import BlobStore, FactStore

_MANIFEST_BYTES = 32 * 2**20  # of memory, for manifests
_TAGS = 65_536
_SIZES = 262_144
_REPOSITORIES = 4_096
_MAX_DEPTH = 8  # an image has two levels; an index of the images of a release has three


class Catalog:
    """Facts about tags, manifests and repositories.

    Attributes:
        names_changed: whether a name or an import changed since index.json was written.
    """

    def __init__(self, store: BlobStore, facts: FactStore) -> None:
        self.names_changed = False
        self._store = store
        self._facts = facts
        self._tags = LruCache[tuple[Repository, Tag], TagFact](_TAGS)
        self._manifests = LruCache[Digest, Manifest](_MANIFEST_BYTES, weigh=lambda manifest: len(manifest.body) + 1024)
        self._sizes = LruCache[tuple[Repository, Digest], int](_SIZES)
        self._holdings = LruCache[Repository, _Holdings](_REPOSITORIES)
        self._named: defaultdict[Repository, set[Tag]] | None = None  # all tags, after the first listing
        self._naming = asyncio.Lock()

    def tag_nowait(self, repository: Repository, tag: Tag) -> TagFact | None:
        """Return `tag` if it is in memory, else None."""
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
        """Return all known tags of a repository."""
        async with self._naming:
            if self._named is None:
                self._named = defaultdict(set)  # from now on new tags are added, also while the facts are read
                for named, tag in await self._facts.tag_names():
                    self._named[named].add(tag)
        facts = {tag: await self.tag(repository, tag) for tag in tuple(self._named.get(repository, ()))}
        return {tag: fact for tag, fact in facts.items() if fact is not None}

    async def keep_tag(self, repository: Repository, tag: Tag, fact: TagFact) -> None:
        if self._named is not None:
            self._named[repository].add(tag)
        before = self._tags.get((repository, tag))
        self.names_changed |= before is None or before.digest != fact.digest
        self._tags.set((repository, tag), fact)
        await self._facts.keep_tag(repository, tag, fact)

    async def drop_tag(self, repository: Repository, tag: Tag) -> None:
        self.names_changed = True
        self._tags.delete((repository, tag))
        await self._facts.drop_tag(repository, tag)

    def manifest_nowait(self, repository: Repository, digest: Digest) -> Manifest | None:
        """Return the manifest if it is stored, in memory, and held by the repository; else None."""
        holdings = self._holdings.get(repository)
        if holdings is None or digest not in holdings.all or digest not in self._store:
            return None
        return self._manifests.get(digest)

    def has(self, digest: Digest) -> bool:
        """Return whether the content is stored."""
        return digest in self._store

    async def manifest(self, digest: Digest) -> Manifest | None:
        """Return the stored manifest; None if it is not stored, or not a manifest.

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
        """Store a manifest, and record that the repository holds it.

        Raises:
            StorageFailed: if it could not be stored (NoSpace: for lack of space); nothing is kept.
        """
        references = tuple(reference.digest for reference in manifest.references)
        # The fact first: a crash in between must not leave content of unknown media type.
        was_stored = manifest.digest in self._store
        await self._facts.keep_manifest(manifest.digest, ManifestFact(manifest.head.media_type or "", references))
        await self._store.put(manifest.digest, manifest.body)
        self._manifests.set(manifest.digest, manifest)
        self.expect(repository, manifest)
        held = HeldFact(manifest.head.media_type or "", proof, time.time())
        await self._keep_root(repository, manifest.digest, references, held, is_new=not was_stored)

    def expect(self, repository: Repository, manifest: Manifest) -> None:
        """Remember the sizes of all content that a manifest references, stored or not.

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
        """Return whether the repository holds *digest*."""
        return digest in (await self._held_by(repository)).all

    async def keep_holding(self, repository: Repository, digest: Digest, proof: Proof, *, is_new: bool = False) -> None:
        """Record that the repository holds a blob, whose right then no longer depends on a manifest.

        Args:
            is_new: whether the blob is not stored yet: the row of an earlier copy was deleted with that copy.
        """
        holdings = await self._held_by(repository)
        if is_new or (digest not in holdings.blobs and digest not in holdings.roots):
            holdings.all.add(digest)
            holdings.blobs.add(digest)
            await self._facts.keep_held(repository, digest, HeldFact(None, proof, time.time()))

    async def drop_holdings(self, repository: Repository, digests: Iterable[Digest]) -> None:
        """Delete the rights of the repository to these digests, and to content that only they reference."""
        holdings = await self._held_by(repository)
        self.names_changed = True
        self._holdings.delete(repository)
        for digest in digests:
            if digest in holdings.roots or digest in holdings.blobs:
                await self._facts.drop_held(repository, digest)
        self._holdings.delete(repository)  # another task may have loaded them meanwhile

    async def _keep_root(
        self, repository: Repository, digest: Digest, references: Iterable[Digest], fact: HeldFact, *, is_new: bool
    ) -> None:
        """Record that the repository holds a manifest: one row, from which the references are derived.

        *is_new*: whether its content was not stored before, so that the row may have been deleted with it.
        """
        holdings = await self._held_by(repository)
        holdings.all.add(digest)
        holdings.all.update(references)
        before = holdings.roots.get(digest)
        is_imported = fact.proof == "imported" and before != "imported"
        if before is None or is_new or is_imported:
            self.names_changed |= is_imported
            holdings.roots[digest] = fact.proof
            await self._facts.keep_held(repository, digest, fact)

    async def _held_by(self, repository: Repository) -> _Holdings:
        holdings = self._holdings.get(repository)
        if holdings is None:
            rows = await self._facts.held(repository)
            loaded = _Holdings(rows)
            for fact in (await self._facts.manifests(loaded.roots)).values():
                loaded.all.update(fact.references)
            # Another task may have loaded them meanwhile: there is only one set of a repository's holdings.
            holdings = self._holdings.get(repository) or loaded
            self._holdings.set(repository, holdings)
        return holdings

    async def referrers(self, repository: Repository, subject: Digest) -> list[Manifest]:
        """Return the stored manifests that the repository holds and that refer to *subject*.

        Raises:
            StorageFailed
        """
        holdings = await self._held_by(repository)
        for root in holdings.roots.keys() - holdings.inspected:
            manifest = await self.manifest(root)
            if manifest is not None and manifest.subject is not None:
                holdings.referrers[manifest.subject].add(root)
            if root in self._store:  # content that is not stored may be fetched again, and be a manifest
                holdings.inspected.add(root)
        found = [await self.manifest(digest) for digest in tuple(holdings.referrers.get(subject, ()))]
        return [manifest for manifest in found if manifest is not None]

    async def is_complete(self, digest: Digest, *, arrived: Callable[[Digest], bool]) -> bool:
        """Return whether a client that gets this manifest can get everything that it will request next.

        Of an index at least one child must be stored, and every stored child complete: no client pulls all platforms.

        Args:
            arrived: returns whether a blob is verified, although it is not stored yet.

        Raises:
            StorageFailed
        """
        return await self._is_complete(digest, arrived, _MAX_DEPTH, {})

    async def _is_complete(
        self, digest: Digest, arrived: Callable[[Digest], bool], depth: int, known: dict[tuple[Digest, int], bool]
    ) -> bool:
        """Return the same, for up to *depth* levels. *known* has earlier answers: an image may have many more paths."""
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


class _Holdings:
    """The digests that one repository holds.

    Attributes:
        roots: the manifests that have a row, with their proof.
        blobs: the other digests that have a row.
        all: both, and the digests that the roots reference.
        inspected: the roots whose subject is known; `referrers` has them by subject.
    """

    __slots__ = ("all", "blobs", "inspected", "referrers", "roots")

    def __init__(self, rows: Mapping[Digest, HeldFact]) -> None:
        self.roots = {digest: fact.proof for digest, fact in rows.items() if fact.is_manifest}
        self.blobs = rows.keys() - self.roots.keys()
        self.all = set(rows)
        self.inspected = set[Digest]()
        self.referrers = defaultdict[Digest, set[Digest]](set)
