"""Keyed lock: one writer of a digest at a time, and exact accounting when a writer is cancelled."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.config import CacheSettings
from mirror.errors import NoSpace
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.primitives.singleflight import KeyedLock
from mirror.storage.disk import DiskStore
from mirror.storage.fact_store import DiskFacts

CONTENT = os.urandom(100_000)
DIGEST = Digest.of(CONTENT)
LIMIT = 250_000


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[DiskStore]:
    """An empty store with space for two and a half such blobs."""
    async with (
        DiskFacts.open(tmp_path / "ledger") as facts,
        DiskStore.at(CacheSettings(path=tmp_path, max_size=LIMIT, min_free=0), facts, Metrics()) as store,
    ):
        yield store


async def write(store: DiskStore, content: bytes, *, pause: asyncio.Event | None = None) -> None:
    """Write one blob, with a pause in the middle."""
    async with store.ingest(Digest.of(content)) as ingest:
        ingest.restart()
        await ingest.reserve(len(content))
        await ingest.append(memoryview(content[:50_000]))
        if pause is not None:
            await pause.wait()
        await ingest.append(memoryview(content[50_000:]))
        ingest.verify(len(content))
        await ingest.commit()


def slow_unlink(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Make the removal of a file take 50 ms. Return an event that its beginning sets."""
    unlinking, unlink = asyncio.Event(), os.unlink
    loop = asyncio.get_running_loop()

    def slow(path: str) -> None:
        loop.call_soon_threadsafe(unlinking.set)
        time.sleep(0.05)
        unlink(path)

    monkeypatch.setattr(os, "unlink", slow)
    return unlinking


def on_disk(directory: Path) -> int:
    """Return the size of all blobs and ingests in bytes."""
    files = [*directory.glob("blobs/*/*"), *directory.glob("ingest/*")]
    return sum(file.stat().st_size for file in files)


async def test_second_writer_of_a_digest_waits(store: DiskStore, tmp_path: Path) -> None:
    """Two writers would share one ingest file, and each would verify its own bytes only."""
    pause = asyncio.Event()
    first = asyncio.create_task(write(store, CONTENT, pause=pause))
    second = asyncio.create_task(write(store, CONTENT))
    for _ in range(50):
        await asyncio.sleep(0.001)
    assert not second.done()
    pause.set()
    await asyncio.gather(first, second)
    assert await store.read(DIGEST) == CONTENT
    assert store.occupied == on_disk(tmp_path) == len(CONTENT)


async def test_cancelled_waiter_does_not_block_the_next() -> None:
    """The lock is removed once no task holds it or waits for it."""
    locks = KeyedLock[str]()
    order: list[str] = []

    async def enter(name: str) -> None:
        async with locks.hold("a"):
            order.append(name)
            await asyncio.sleep(0)

    async with locks.hold("a"):
        waiting = [asyncio.create_task(enter(name)) for name in ("b", "c")]
        await asyncio.sleep(0)
        async with locks.hold("another"):
            waiting[0].cancel()
            await asyncio.sleep(0)
    await asyncio.gather(*waiting, return_exceptions=True)
    assert order == ["c"]
    assert not vars(locks)["_locks"]


@pytest.mark.parametrize("how", ["put", "ingest"])
async def test_published_blob_is_counted_after_any_cancellation(store: DiskStore, tmp_path: Path, how: str) -> None:
    """Cancellation does not stop a thread that renames a file: a blob made visible must be in the total."""
    for steps in range(60):
        content = os.urandom(60_000)
        work = store.put(Digest.of(content), content) if how == "put" else write(store, content)
        task = asyncio.create_task(work)
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert store.occupied == on_disk(tmp_path) <= LIMIT, steps
    await store.forget_ingests(older_than=-1)
    assert store.occupied == on_disk(tmp_path)


async def test_space_is_free_only_after_the_evicted_file_is_removed(
    store: DiskStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancelled eviction does not release its space before the file is unlinked."""
    old, new = os.urandom(200_000), os.urandom(150_000)
    await store.put(Digest.of(old), old)
    unlinking = slow_unlink(monkeypatch)
    evicting = asyncio.create_task(store.reserve(100_000))
    await unlinking.wait()
    evicting.cancel()
    await store.reserve(len(new))
    assert on_disk(tmp_path) == 0
    with pytest.raises(asyncio.CancelledError):
        await evicting
    with pytest.raises(NoSpace):
        await store.reserve(LIMIT)


async def test_victim_that_is_opened_during_an_eviction_stays(
    store: DiskStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another blob is evicted in its place, and the facts of the opened one are kept."""
    kept, old, later = (os.urandom(60_000) for _ in range(3))
    async with store.ingest(Digest.of(kept)) as ingest:  # an interrupted download, which is removed first
        ingest.restart()
        await ingest.reserve(len(kept))
        await ingest.append(memoryview(kept))
    for content in (old, later):
        await store.put(Digest.of(content), content)
    unlinking = slow_unlink(monkeypatch)
    evicting = asyncio.create_task(store.reserve(180_000))  # the interrupted download and the oldest blob
    await unlinking.wait()
    async with store.open(Digest.of(old)) as blob:
        assert blob is not None
        await evicting
        assert Digest.of(old) in store
        assert Digest.of(later) not in store
    assert await store.read(Digest.of(old)) == old
    assert on_disk(tmp_path) == len(old)
