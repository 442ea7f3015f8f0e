"""Caches for tests: a store with its facts, its catalog and its images, and images to store there."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mirror.catalog.catalog import Catalog
from mirror.catalog.images import Images
from mirror.catalog.index_writer import ImageIndexWriter
from mirror.config import CacheSettings
from mirror.maintenance.rebuild_facts import Rebuild
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.oci.image_names import Image
from mirror.oci.manifest import OCI_MANIFEST, Manifest
from mirror.oci.names import Repository, Tag
from mirror.storage.disk import DiskStore
from mirror.storage.fact_store import DiskFacts
from mirror.storage.facts import Proof, TagFact

APP, OTHER = Repository("r.test", "app"), Repository("r.test", "other")
V1 = Tag("v1")
IMAGE = Image(APP, V1)


@dataclass(frozen=True, slots=True)
class Cache:
    """The parts of one cache, assembled as a start does."""

    path: Path
    facts: DiskFacts
    store: DiskStore
    rebuild: Rebuild
    catalog: Catalog
    images: Images

    def names(self) -> set[str]:
        """Return the names in index.json."""
        entries = json.loads((self.path / "index.json").read_bytes())["manifests"]
        return {entry["annotations"]["org.opencontainers.image.ref.name"] for entry in entries}

    async def pull(self, repository: Repository, tag: Tag, *, proof: Proof = "pulled") -> Manifest:
        """Store an image with one layer, of its own."""
        layer = f"layer of {repository}:{tag}".encode()
        await self.store.put(Digest.of(layer), layer)
        manifest = image_of(Digest.of(layer))
        await self.catalog.keep_manifest(repository, manifest, proof=proof)
        await self.catalog.keep_tag(repository, tag, TagFact(manifest.digest, time.time()))
        return manifest

    async def maintain(self) -> None:
        """Do what maintenance does for the facts."""
        await self.facts.mend()
        await self.rebuild.run()
        await self.images.hold_pinned()
        await self.images.save_changed()


def image_of(*layers: Digest) -> Manifest:
    references = [{"mediaType": "application/octet-stream", "digest": str(layer), "size": 5} for layer in layers]
    body = json.dumps({"schemaVersion": 2, "config": references[0], "layers": references[1:]}).encode()
    return Manifest.read(Digest.of(body), body, OCI_MANIFEST)


@asynccontextmanager
async def cache_at(path: Path, *, max_size: int = 2**20) -> AsyncIterator[Cache]:
    settings = CacheSettings(path=path, max_size=max_size, min_free=0)
    async with DiskFacts.open(path / "ledger") as facts, DiskStore.at(settings, facts, Metrics()) as store:
        rebuild = Rebuild(store, facts, store)
        await rebuild.names()
        catalog = Catalog(store, facts)
        async with Images(store, catalog, facts, ImageIndexWriter(store, facts, store)) as images:
            yield Cache(path, facts, store, rebuild, catalog, images)
