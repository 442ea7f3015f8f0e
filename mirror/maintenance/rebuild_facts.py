"""Rebuilds a lost fact database: names, pins and imports from index.json, manifests from the blobs themselves.

A repository gets rights only to the manifests that index.json names, and the stored manifests reachable from these.
Before other content is served, the upstream must confirm it again.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import structlog

from mirror.oci.digest import Digest
from mirror.oci.manifest import LARGEST, Manifest, is_manifest
from mirror.oci.names import Repository, Tag
from mirror.storage.facts import HeldFact, ManifestFact, TagFact
from mirror.storage.index_json import IndexEntry, parse
from mirror.storage.protocols import BlobStore, FactStore, ImageIndexFile

_BATCH = 256  # blobs that are read at once
_MAX_GRAPH = 100_000  # manifests below one name; an index of a release has some hundreds
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Node:
    """A stored manifest: its fact, and the manifests that it references."""

    fact: ManifestFact
    children: tuple[Digest, ...]


class Rebuild:
    """Rebuilds the facts that one fact store lacks. Does nothing if it is complete."""

    def __init__(self, store: BlobStore, facts: FactStore, file: ImageIndexFile) -> None:
        self._store = store
        self._facts = facts
        self._file = file
        self._restored = 0

    async def run(self) -> None:
        """Rebuild names and manifests."""
        await self.names()
        await self.manifests()

    async def names(self) -> None:
        """Restore tags, pins and imports from index.json: before pins are needed, and before it is written again."""
        if await self._facts.is_rebuilt("names"):
            return
        content = await self._file.read_index()
        entries = [] if content is None else await asyncio.to_thread(parse, content)
        nodes: dict[Digest, _Node | None] = {}
        seen: set[tuple[Repository, Digest]] = set()
        self._restored = 0
        for entry in sorted(entries, key=lambda entry: not entry.is_imported):  # what two images share was imported
            if await self._node(entry.digest, entry.media_type, nodes) is not None:
                await self._restore(entry)
                await self._restore_graph(entry, nodes, seen)
                self._restored += 1
        await self._facts.keep_rebuilt("names")

    async def _restore(self, entry: IndexEntry) -> None:
        repository, reference = entry.image.repository, entry.image.reference
        if isinstance(reference, Tag) and await self._facts.tag(repository, reference) is None:
            checked = min(entry.checked or 0.0, time.time())  # a time in the future would be fresh for ever
            await self._facts.keep_tag(repository, reference, TagFact(entry.digest, checked))
        if entry.is_pinned:
            await self._facts.keep_pin(entry.image)

    async def _restore_graph(
        self, entry: IndexEntry, nodes: dict[Digest, _Node | None], seen: set[tuple[Repository, Digest]]
    ) -> None:
        """Record the repository's rights to the named manifest, and to the stored manifests below it."""
        repository, waiting, count = entry.image.repository, [entry.digest], 0
        while waiting and count < _MAX_GRAPH:
            digest = waiting.pop()
            node = None if (repository, digest) in seen else await self._node(digest, None, nodes)
            seen.add((repository, digest))
            if node is not None:
                count += 1
                await self._facts.add_manifests({digest: node.fact})
                held = HeldFact(node.fact.media_type, "imported" if entry.is_imported else "restored", time.time())
                await self._facts.keep_held(repository, digest, held)
                waiting += node.children

    async def _node(self, digest: Digest, media_type: str | None, nodes: dict[Digest, _Node | None]) -> _Node | None:
        """Return a stored manifest; None if it is not stored, damaged, or not a manifest. Each is read once."""
        if digest not in nodes:
            is_small = (self._store.size(digest) or LARGEST) < LARGEST
            body = await self._store.read(digest) if is_small else None
            if body is None or not is_manifest(body) or Digest.of(body, digest.algorithm) != digest:
                nodes[digest] = None
            else:
                manifest = Manifest.read(digest, body, media_type)
                references = tuple(reference.digest for reference in manifest.references)
                fact = ManifestFact(manifest.head.media_type or "", references)
                nodes[digest] = _Node(fact, references if manifest.is_index else ())
        return nodes[digest]

    async def manifests(self) -> None:
        """Find the manifests among the blobs: media type and references of each."""
        if await self._facts.is_rebuilt("manifests"):
            return
        found, batch = 0, list[Digest]()
        async for digest in self._store.digests():
            if (self._store.size(digest) or 0) < LARGEST:
                batch.append(digest)
            if len(batch) == _BATCH:
                added, batch = await self._add(batch), []
                if added is None:
                    return  # the next maintenance tries again
                found += added
        added = await self._add(batch)
        if added is None:
            return
        found += added
        await self._facts.keep_rebuilt("manifests")
        if len(self._store) or self._facts.replaced is not None:
            reason = self._facts.replaced or "the fact database was missing, but blobs are stored"
            names = self._restored
            log.warning("facts_rebuilt", blobs=len(self._store), manifests=found, names=names, reason=reason)

    async def _add(self, digests: list[Digest]) -> int | None:
        """Add the facts of those that are manifests. Return their number; None if they could not be written."""
        bodies = await self._store.read_documents(digests)
        facts = await asyncio.to_thread(
            lambda: {digest: fact for digest, body in bodies.items() if (fact := _fact(digest, body)) is not None}
        )
        return len(facts) if await self._facts.add_manifests(facts) else None


def _fact(digest: Digest, body: bytes) -> ManifestFact | None:
    """Return the fact about a manifest; None if the document references nothing, or is damaged."""
    manifest = Manifest.read(digest, body, None)
    if not manifest.references or Digest.of(body, digest.algorithm) != digest:
        return None
    return ManifestFact(manifest.head.media_type or "", tuple(reference.digest for reference in manifest.references))
