"""Completeness of images: time for the manifests of an image, and not for the paths between them."""

import json
from pathlib import Path

from mirror.catalog.catalog import Catalog
from mirror.config import CacheSettings
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.oci.manifest import OCI_INDEX, OCI_MANIFEST, Manifest
from mirror.oci.names import Repository
from mirror.storage.disk import DiskStore
from mirror.storage.fact_store import DiskFacts
from mirror.storage.protocols import BlobStore, FactStore

REPOSITORY = Repository("r.test", "app")
LAYER = b"layer"


def manifest(name: int, member: str, media_type: str, digests: list[Digest]) -> Manifest:
    references = [{"mediaType": media_type, "digest": str(one), "size": 1} for one in digests]
    body = json.dumps({"schemaVersion": 2, "annotations": {"name": str(name)}, member: references}).encode()
    return Manifest.read(Digest.of(body), body, OCI_INDEX if member == "manifests" else OCI_MANIFEST)


class CountingCatalog(Catalog):
    """A catalog that notes each inspected manifest."""

    def __init__(self, store: BlobStore, facts: FactStore, reads: list[Digest]) -> None:
        super().__init__(store, facts)
        self._reads = reads

    async def manifest(self, digest: Digest) -> Manifest | None:
        self._reads.append(digest)
        return await super().manifest(digest)


async def test_nested_indexes_of_the_same_images(tmp_path: Path) -> None:
    """Six levels of ten indexes, each of all ten of the next level: sixty manifests, and a million paths."""
    async with (
        DiskFacts.open(tmp_path / "ledger") as facts,
        DiskStore.at(CacheSettings(path=tmp_path, max_size=2**20, min_free=0), facts, Metrics()) as store,
    ):
        reads: list[Digest] = []
        catalog = CountingCatalog(store, facts, reads)
        await store.put(Digest.of(LAYER), LAYER)
        children: list[Digest] = []
        level = [manifest(number, "layers", OCI_MANIFEST, [Digest.of(LAYER)]) for number in range(10)]
        for depth in range(7):
            for one in level:
                await catalog.keep_manifest(REPOSITORY, one)
            children = [one.digest for one in level]
            level = [manifest(number, "manifests", OCI_INDEX, children) for number in range(10 if depth < 5 else 1)]
        root = children[0]
        assert await catalog.is_complete(root, arrived=lambda _: False)
        assert len(reads) == 61
        await store.discard(Digest.of(LAYER))
        assert not await catalog.is_complete(root, arrived=lambda _: False)
        assert await catalog.is_complete(root, arrived=lambda digest: digest == Digest.of(LAYER))
