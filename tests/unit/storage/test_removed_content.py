"""Facts about content are deleted with it, however it goes, and in spite of a failure."""

import os
import shutil
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mirror.config import CacheSettings
from mirror.errors import StorageFailed
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.storage.disk import DiskStore
from mirror.storage.fact_store import DiskFacts
from mirror.storage.facts import HeldFact, ManifestFact
from tests.unit.storage.kept_facts import APP, TOOL, FailingDeletions, blobs_of

CONTENT, OTHER = b"{}" * 100, b"other"
DIGEST = Digest.of(CONTENT)
MANIFEST = ManifestFact("application/json", ())
HELD = HeldFact("application/json", "imported", 1.0)
LIMIT = 300  # bytes: the content, or a larger one


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[tuple[DiskFacts, DiskStore]]:
    settings = CacheSettings(path=path, max_size=LIMIT, min_free=0)
    async with DiskFacts.open(path / "ledger") as facts, DiskStore.at(settings, facts, Metrics()) as store:
        yield facts, store


async def keep(facts: DiskFacts, store: DiskStore) -> None:
    await facts.keep_manifest(DIGEST, MANIFEST)
    await facts.keep_held(APP, DIGEST, HELD)
    await facts.keep_held(TOOL, DIGEST, HELD)
    await store.put(DIGEST, CONTENT)
    await store.flush()


async def known(facts: DiskFacts) -> set[str]:
    """Return which facts about the content are known."""
    found = {
        "manifest": await facts.manifest(DIGEST) is not None,
        "rights": any(DIGEST in held for held in (await facts.all_held()).values()),
        "size": DIGEST.hex in await blobs_of(facts),
    }
    return {name for name, is_known in found.items() if is_known}


async def go(store: DiskStore, path: Path, how: str) -> None:
    file = path / "blobs" / DIGEST.algorithm / DIGEST.hex
    match how:
        case "discarded":
            await store.discard(DIGEST)
        case "evicted":
            await store.reserve(LIMIT - len(CONTENT) + 1)
        case "condemned":
            await store.condemn(DIGEST, "damaged")
        case "truncated":
            file.chmod(0o600)
            file.write_bytes(b"{}")
            assert await store.read(DIGEST) is None
        case "removed":
            file.unlink()
            assert await store.read(DIGEST) is None
        case _:
            file.unlink()  # the next start finds it


WAYS = ("discarded", "evicted", "condemned", "truncated", "removed", "removed while stopped")


@pytest.mark.parametrize("how", WAYS)
async def test_facts_go_with_their_content(tmp_path: Path, how: str) -> None:
    async with opened(tmp_path) as (facts, store):
        await keep(facts, store)
        assert await known(facts) == {"manifest", "rights", "size"}
        await go(store, tmp_path, how)
        if how in WAYS[:-1]:
            assert await known(facts) == set()
    async with opened(tmp_path) as (facts, store):
        assert await known(facts) == set()
        assert DIGEST not in store


async def test_facts_stay_if_the_directory_is_gone(tmp_path: Path) -> None:
    """Its files may come back with it."""
    path = tmp_path / "cache"
    async with opened(path) as (facts, store):
        await keep(facts, store)
        (path / "blobs").rename(tmp_path / "aside")
        assert await store.read(DIGEST) is None
        assert {"manifest", "rights"} <= await known(facts)
        shutil.rmtree(tmp_path / "aside")


async def barrier(facts: DiskFacts) -> None:
    """Wait for the work of the fact thread."""
    await facts.manifests([])


@pytest.mark.parametrize("later", ["mended", "closed"])
async def test_failed_deletion_is_repeated(tmp_path: Path, later: str) -> None:
    async with opened(tmp_path) as (facts, store):
        await keep(facts, store)
        with FailingDeletions(facts):
            await store.discard(DIGEST)
            await barrier(facts)
            assert await known(facts) == set(), "the rows still exist, but count as absent"
        if later == "mended":
            await facts.mend()
    async with DiskFacts.open(tmp_path / "ledger") as facts:
        assert await known(facts) == set()


async def test_late_deletion_spares_facts_about_content_that_came_back(tmp_path: Path) -> None:
    """Facts that were kept after the content had gone are not deleted with those before."""
    async with opened(tmp_path) as (facts, store):
        await keep(facts, store)
        with FailingDeletions(facts):
            await store.discard(DIGEST)
            await barrier(facts)
        await facts.keep_held(APP, DIGEST, HELD)
        await facts.sync()
        assert await facts.all_held() == {APP: {DIGEST: HELD}}
        assert await facts.manifest(DIGEST) is None


async def test_blob_whose_name_is_not_durable_is_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that the content is stored must survive a power failure."""
    fsync = os.fsync

    def fail(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("/blobs/sha256"):
            raise OSError(5, "Input/output error")
        fsync(descriptor)

    def files() -> Iterable[Path]:
        return [path for path in tmp_path.rglob("*") if path.name == DIGEST.hex]

    async with opened(tmp_path) as (_, store):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(StorageFailed, match="Input/output error"):
                await store.put(DIGEST, CONTENT)
            await store.repair()
            async with store.ingest(DIGEST) as ingest:
                await ingest.append(memoryview(CONTENT))
                ingest.verify(None)
                with pytest.raises(StorageFailed, match="Input/output error"):
                    await ingest.commit()
        assert DIGEST not in store
        assert (store.occupied, files()) == (0, [])
        await store.repair()
        await store.put(DIGEST, CONTENT)
        assert await store.read(DIGEST) == CONTENT
