"""Rows of the fact database: written although the caller left or the disk was full, and synced."""

import asyncio
import os
import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest

from mirror.errors import StorageFailed
from mirror.oci.digest import Digest
from mirror.oci.names import Tag
from mirror.storage.fact_store import DiskFacts
from mirror.storage.facts import ManifestFact, TagFact
from tests.real.mounts import small_disk
from tests.unit.storage.kept_facts import APP, DIGESTS, EDGE, FACT, LATEST, full


async def test_sync_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write-ahead log, and the directories that name it."""
    synced: list[str] = []

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    async with DiskFacts.open(tmp_path / "ledger") as facts:
        await facts.keep_tag(APP, LATEST, FACT)
        monkeypatch.setattr(os, "fsync", fsync)
        await facts.sync()
        monkeypatch.undo()
    assert synced == [str(tmp_path / "ledger" / "cache.db-wal"), str(tmp_path / "ledger"), str(tmp_path)]


@pytest.mark.needs("mount", root=True)
async def test_unwritable_facts_are_readable_and_written_later(tmp_path: Path) -> None:
    """Kept and dropped facts: in effect at once, and on disk as soon as it has space."""
    with small_disk(tmp_path / "disk", 2**22) as disk:
        async with DiskFacts.open(disk / "ledger") as facts:
            await facts.keep_tag(APP, EDGE, FACT)
            with full(disk):
                for number in range(10):  # fills the free pages of the database
                    await facts.keep_manifest(Digest.of(bytes([9, number])), ManifestFact(os.urandom(50_000).hex(), ()))
                await facts.keep_tag(APP, LATEST, FACT)
                await facts.drop_tag(APP, EDGE)
                await facts.keep_manifest(DIGESTS[0], ManifestFact("a/b", (DIGESTS[1],)))
                assert await facts.tag(APP, LATEST) == FACT
                assert await facts.tag(APP, EDGE) is None
                assert (await facts.manifests(DIGESTS))[DIGESTS[0]].references == (DIGESTS[1],)
            await facts.mend()
        async with DiskFacts.open(disk / "ledger") as facts:
            assert await facts.tag(APP, LATEST) == FACT
            assert await facts.tag(APP, EDGE) is None
            assert (await facts.manifests(DIGESTS))[DIGESTS[0]].references == (DIGESTS[1],)


async def test_cancelled_write_is_written(tmp_path: Path) -> None:
    """A client that leaves cancels its pull; the memory of the catalog already has the fact."""
    async with DiskFacts.open(tmp_path / "ledger") as facts:
        thread_is_free = threading.Event()
        facts._thread.submit(thread_is_free.wait)
        writing = asyncio.create_task(facts.keep_tag(APP, LATEST, TagFact(DIGESTS[0], 1.0)))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.sleep(0)  # the cancellation arrives while the write is queued
        thread_is_free.set()
        with suppress(asyncio.CancelledError):
            await writing
        with closing(sqlite3.connect(tmp_path / "ledger" / "cache.db")) as database:
            assert database.execute("SELECT count(*) FROM Cache WHERE key LIKE 'tag %'").fetchone() == (1,)


async def test_sync_does_not_wait_for_later_rows(tmp_path: Path) -> None:
    """A row that another task is about to write is no failure of the rows before it."""
    async with DiskFacts.open(tmp_path / "ledger") as facts:
        await facts.keep_tag(APP, LATEST, FACT)
        writing = asyncio.Event()

        async def write_rows() -> None:
            for number in range(200):
                await facts.keep_tag(APP, Tag(f"v{number}"), FACT)
                writing.set()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(write_rows())
            await writing.wait()
            for _ in range(20):
                await facts.sync()


@pytest.mark.needs("mount", root=True)
async def test_sync_fails_if_a_row_is_not_written(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2**22) as disk:
        async with DiskFacts.open(disk / "ledger") as facts:
            with full(disk):
                for number in range(10):  # fills the free pages of the database
                    await facts.keep_manifest(Digest.of(bytes([9, number])), ManifestFact(os.urandom(50_000).hex(), ()))
                with pytest.raises(StorageFailed, match="can't be written"):
                    await facts.sync()
            await facts.sync()


async def test_sync_after_a_failed_one_writes_the_rows_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux reports a failed write-back once; the next fsync of the same file succeeds without the pages."""

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    async with DiskFacts.open(tmp_path / "ledger") as facts:
        await facts.keep_tag(APP, LATEST, FACT)
        log = tmp_path / "ledger" / "cache.db-wal"
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(StorageFailed, match="Input/output error"):
                await facts.sync()
        assert log.stat().st_size
        await facts.sync()
        assert not log.stat().st_size, "the rows are in the database file, which SQLite has synced"
        await facts.keep_tag(APP, EDGE, FACT)
        await facts.sync()
        assert log.stat().st_size
