"""Condemned blobs: a damaged file is removed, and right content under the same digest is never taken for it."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.config import CacheSettings
from mirror.errors import StorageFailed
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.storage import damaged_blobs
from mirror.storage.disk import DiskStore
from mirror.storage.fact_store import DiskFacts
from mirror.storage.facts import ManifestFact

CONTENT, OTHER = b"content", b"other content"
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


async def condemn_unremovable(store: DiskStore, monkeypatch: pytest.MonkeyPatch, *contents: bytes) -> None:
    """Store and condemn blobs on a disk that is read-only meanwhile."""

    def fail(path: str, seen: os.stat_result | None) -> bool:
        raise StorageFailed("EROFS")

    for content in contents:
        await store.put(Digest.of(content), content)
    with monkeypatch.context() as patch:
        patch.setattr(damaged_blobs, "_unlink", fail)
        for content in contents:
            await store.condemn(Digest.of(content), "damaged")


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

    await condemn_unremovable(store, monkeypatch, CONTENT)
    assert DIGEST not in store
    await store.put(DIGEST, CONTENT)
    await store.repair()
    assert DIGEST in store
    assert await read(store) == CONTENT


@pytest.mark.parametrize("is_known", [True, False])
async def test_blob_that_is_fetched_during_the_repair_is_kept(
    store: DiskStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    """It comes back while the repair removes another damaged file, whether or not the damaged one is known."""
    if not is_known:
        monkeypatch.setattr(damaged_blobs, "_status", lambda _: None)
    await condemn_unremovable(store, monkeypatch, CONTENT, OTHER)
    unlink, removing = damaged_blobs._unlink, asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(path: str, seen: os.stat_result | None) -> bool:
        loop.call_soon_threadsafe(removing.set)
        time.sleep(0.05)
        return unlink(path, seen)

    monkeypatch.setattr(damaged_blobs, "_unlink", slow)
    repair = asyncio.create_task(store.repair())
    await removing.wait()
    await store.put(Digest.of(OTHER), OTHER)
    await repair
    assert DIGEST not in store
    assert await store.read(Digest.of(OTHER)) == OTHER
    assert [path.name for path in (tmp_path / "blobs" / "sha256").iterdir()] == [Digest.of(OTHER).hex]
    assert store.occupied == len(OTHER)


async def test_file_in_place_of_the_damaged_one_is_kept(
    store: DiskStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that the operator restored from a backup: it is verified like any other."""
    await condemn_unremovable(store, monkeypatch, CONTENT)
    (tmp_path / "restored").write_bytes(CONTENT)
    (tmp_path / "restored").rename(tmp_path / "blobs" / "sha256" / DIGEST.hex)
    await store.repair()
    assert await read(store) == CONTENT
