"""Recorded sizes: a row with a wrong size costs no content, since a digest alone decides about damage."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mirror.config import CacheSettings
from mirror.maintenance.scrub import Scrub
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.storage.disk import DiskStore
from mirror.storage.fact_store import DiskFacts
from mirror.storage.inspection import FileInspection
from mirror.storage.threads import DiskThreads

CONTENT = os.urandom(2**20 + 100)
DIGEST = Digest.of(CONTENT)
SIZES = [0, 1, len(CONTENT) - 1, len(CONTENT) + 1, 2**62]


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[tuple[DiskFacts, DiskStore]]:
    settings = CacheSettings(path=path, max_size=2**30, min_free=0)
    async with DiskFacts.open(path / "ledger") as facts, DiskStore.at(settings, facts, Metrics()) as store:
        yield facts, store


@asynccontextmanager
async def with_row(path: Path, size: int) -> AsyncIterator[tuple[DiskFacts, DiskStore]]:
    """A store that was stopped, and whose only blob got a row with another size then."""
    async with opened(path) as (_, store):
        await store.put(DIGEST, CONTENT)
    with closing(sqlite3.connect(path / "ledger" / "cache.db")) as database:
        value = f'{{"size":{size},"used":1.0}}'
        found = database.execute("UPDATE Cache SET value = ? WHERE key = ?", (value, f"blob {DIGEST}"))
        assert found.rowcount == 1
        database.commit()
    async with opened(path) as (facts, store):
        assert store.size(DIGEST) == size
        yield facts, store


async def check_corrected(store: DiskStore) -> None:
    assert store.size(DIGEST) == store.occupied == len(CONTENT)
    assert await store.read(DIGEST) == CONTENT


@pytest.mark.parametrize("size", SIZES)
async def test_wrong_size_is_corrected_by_the_first_reader(tmp_path: Path, size: int) -> None:
    with capture_logs() as events:
        async with with_row(tmp_path, size) as (_, store), store.open(DIGEST) as blob:
            assert blob is not None
            assert blob.size == len(CONTENT)
            await check_corrected(store)
    assert [event["event"] for event in events] == ["blob_size_corrected"]
    async with opened(tmp_path) as (_, store):  # the row is right, too
        await check_corrected(store)


@pytest.mark.parametrize("size", SIZES)
async def test_wrong_size_is_corrected_by_the_scrub(tmp_path: Path, size: int) -> None:
    async with with_row(tmp_path, size) as (facts, store):
        with DiskThreads.running(1, "scrub") as threads:
            await Scrub(store, facts, Metrics(), rate=2**30)._check(DIGEST, threads)
        await check_corrected(store)


@pytest.mark.parametrize("size", SIZES)
async def test_damaged_file_is_removed_whatever_its_row_says(tmp_path: Path, size: int) -> None:
    async with with_row(tmp_path, size) as (_, store):
        file = tmp_path / "blobs" / "sha256" / DIGEST.hex
        file.chmod(0o600)
        file.write_bytes(CONTENT[:-2] + b"!!")
        with capture_logs() as events:
            assert await store.read(DIGEST) is None
        assert [event["event"] for event in events] == ["blob_damaged"]
        assert (DIGEST in store, file.exists(), store.occupied) == (False, False, 0)


@dataclass
class Reads:
    """The offsets of all reads of files that are verified, and an event of the first."""

    offsets: list[int] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)


@pytest.fixture
async def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    reads, read, loop = Reads(), FileInspection.read, asyncio.get_running_loop()

    def counted(inspection: FileInspection, limit: int) -> None:
        reads.offsets.append(inspection.at)
        loop.call_soon_threadsafe(reads.begun.set)
        read(inspection, limit)

    monkeypatch.setattr(FileInspection, "read", counted)
    return reads


async def test_concurrent_readers_share_one_verification(tmp_path: Path, reads: Reads) -> None:
    """Each would read the whole blob. A reader that leaves does not stop it."""
    async with with_row(tmp_path, 1) as (_, store):
        first = asyncio.create_task(store.read(DIGEST))
        await reads.begun.wait()
        first.cancel()
        assert await asyncio.gather(*(store.read(DIGEST) for _ in range(5))) == [CONTENT] * 5
    assert reads.offsets == [0, 2**20, len(CONTENT)]


async def test_verification_ends_with_the_store(tmp_path: Path, reads: Reads) -> None:
    """The row stays wrong then, and the file stays."""
    async with with_row(tmp_path, 1) as (_, store):
        reading = asyncio.create_task(store.read(DIGEST))
        await reads.begun.wait()
    with pytest.raises(asyncio.CancelledError):
        await reading
    async with opened(tmp_path) as (_, store):
        assert await store.read(DIGEST) == CONTENT
