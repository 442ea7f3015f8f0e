"""One writer of a digest at a time, and exact accounting when a writer is cancelled."""

import asyncio
import os
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
    """An empty one, for two and a half such blobs."""
    async with (
        DiskFacts.open(tmp_path / "ledger") as facts,
        DiskStore.at(CacheSettings(path=tmp_path, max_size=LIMIT, min_free=0), facts, Metrics()) as store,
    ):
        yield store


async def write(store: DiskStore, content: bytes, *, pause: asyncio.Event | None = None) -> None:
    """All of one writer's work, with a pause in the middle."""
    async with store.ingest(Digest.of(content)) as ingest:
        ingest.restart()
        await ingest.reserve(len(content))
        await ingest.append(memoryview(content[:50_000]))
        if pause is not None:
            await pause.wait()
        await ingest.append(memoryview(content[50_000:]))
        ingest.verify(len(content))
        await ingest.commit()


def on_disk(directory: Path) -> int:
    """Bytes of all blobs and ingests."""
    files = [*directory.glob("blobs/*/*"), *directory.glob("ingest/*")]
    return sum(file.stat().st_size for file in files)


async def test_of_two_writers_of_a_digest_one_waits(store: DiskStore, tmp_path: Path) -> None:
    """Both would write to the same file, and each verify only its own bytes."""
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


async def test_who_waits_may_leave() -> None:
    """And lets the next one in; nothing is left of them all."""
    exclusion = KeyedLock[str]()
    order: list[str] = []

    async def enter(name: str) -> None:
        async with exclusion.of("a"):
            order.append(name)
            await asyncio.sleep(0)

    async with exclusion.of("a"):
        waiting = [asyncio.create_task(enter(name)) for name in ("b", "c")]
        await asyncio.sleep(0)
        async with exclusion.of("another"):
            waiting[0].cancel()
            await asyncio.sleep(0)
    await asyncio.gather(*waiting, return_exceptions=True)
    assert order == ["c"]
    assert not vars(exclusion)["_doors"]


@pytest.mark.parametrize("how", ["put", "ingest"])
async def test_what_is_published_counts_whenever_its_writer_is_cancelled(
    store: DiskStore, tmp_path: Path, how: str
) -> None:
    """A thread that renames a file does not stop: what it made visible is in the sum, at every moment of a cancel."""
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


async def test_room_is_free_only_when_what_was_there_is_gone(
    store: DiskStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancelled eviction gives the space to no other caller before the file is removed."""
    old, new = os.urandom(200_000), os.urandom(150_000)
    await store.put(Digest.of(old), old)
    unlinking, unlink = asyncio.Event(), os.unlink
    loop = asyncio.get_running_loop()

    def slow(path: str) -> None:
        loop.call_soon_threadsafe(unlinking.set)
        asyncio.run(asyncio.sleep(0.05))
        unlink(path)

    monkeypatch.setattr(os, "unlink", slow)
    evicting = asyncio.create_task(store.reserve(100_000))
    await unlinking.wait()
    evicting.cancel()
    await store.reserve(len(new))
    assert on_disk(tmp_path) == 0
    with pytest.raises(asyncio.CancelledError):
        await evicting
    with pytest.raises(NoSpace):
        await store.reserve(LIMIT)
