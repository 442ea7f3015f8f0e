"""Condemned blobs: a damaged file is removed, and right content under the same digest is never taken for it."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.config import CacheSettings
from mirror.errors import StorageFailed
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.storage import disk
from mirror.storage.disk import DiskStore
from mirror.storage.fact_store import DiskFacts
from mirror.storage.facts import ManifestFact

CONTENT = b"content"
DIGEST = Digest.of(CONTENT)
FACT = ManifestFact("application/vnd.oci.image.manifest.v1+json", ())


@pytest.fixture
async def facts(tmp_path: Path) -> AsyncIterator[DiskFacts]:
    async with DiskFacts.open(tmp_path / "ledger") as facts:
        yield facts


@pytest.fixture
async def store(facts: DiskFacts, tmp_path: Path) -> AsyncIterator[DiskStore]:
    async with DiskStore.at(CacheSettings(path=tmp_path, max_size=2**20, min_free=0), facts, Metrics()) as store:
        yield store


async def read(store: DiskStore) -> bytes | None:
    return await store.read(DIGEST)


async def test_blob_that_was_fetched_again_is_kept(store: DiskStore, facts: DiskFacts, tmp_path: Path) -> None:
    """The damaged file was removed and fetched again before its finder reported it."""
    await facts.keep_manifest(DIGEST, FACT)
    await store.put(DIGEST, CONTENT)
    another = tmp_path / "another"
    another.write_bytes(b"damaged")
    await store.condemn(DIGEST, "damaged", seen=os.stat(another))
    assert DIGEST in store
    assert store.occupied == len(CONTENT)
    assert await read(store) == CONTENT
    assert await facts.manifest(DIGEST) == FACT


async def test_blob_that_was_evicted_can_be_stored_again(store: DiskStore) -> None:
    """The damaged blob was evicted before its finder reported it."""
    await store.put(DIGEST, CONTENT)
    await store.discard(DIGEST)
    await store.condemn(DIGEST, "damaged")
    assert DIGEST not in store
    await store.put(DIGEST, CONTENT)
    assert DIGEST in store
    assert await read(store) == CONTENT


async def test_file_that_could_not_be_removed_is_replaced(store: DiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right content took its place: it is not removed when the mirror tries again to remove the damaged file."""

    def fail(path: str, seen: os.stat_result | None) -> bool:
        raise StorageFailed("EIO")

    await store.put(DIGEST, CONTENT)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "_unlink", fail)
        await store.condemn(DIGEST, "damaged")
    assert DIGEST not in store
    await store.put(DIGEST, CONTENT)
    await store.repair()
    assert DIGEST in store
    assert await read(store) == CONTENT
