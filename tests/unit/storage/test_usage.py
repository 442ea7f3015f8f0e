"""LRU order under concurrency: which blob is evicted first when uses are noted while other work runs."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mirror.config import CacheSettings
from mirror.errors import NoSpace
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.storage.disk import DiskStore
from mirror.storage.fact_store import DiskFacts
from mirror.storage.facts import ManifestFact
from mirror.storage.lru_inventory import BlobRow
from tests.unit.contents import Content, layer, manifest
from tests.unit.loops import new_loop

OLD, NEW, MORE = layer("old", 100), layer("new", 100), layer("more", 100)
IMAGE = manifest("image", 50, OLD)


class SlowFacts(DiskFacts):
    """A fact store that returns manifests only when a test allows it."""

    answers: asyncio.Event

    async def manifests(self, digests: Iterable[Digest]) -> Mapping[Digest, ManifestFact]:
        found = await super().manifests(digests)
        await self.answers.wait()
        return found


@asynccontextmanager
async def stores(root: Path, limit: int) -> AsyncIterator[tuple[DiskStore, SlowFacts]]:
    cache = CacheSettings(path=root, max_size=limit, min_free=0)
    async with SlowFacts.open(root / "ledger") as facts:
        assert isinstance(facts, SlowFacts)
        facts.answers = asyncio.Event()
        facts.answers.set()
        async with DiskStore.at(cache, facts, Metrics()) as store:
            yield store, facts


async def put(store: DiskStore, *contents: Content) -> None:
    for content in contents:
        await store.put(content.digest, content.body)


async def ingest(store: DiskStore, content: Content, *used: Content) -> None:
    """A download, while other content is used."""
    async with store.ingest(content.digest) as arriving:
        await arriving.reserve(len(content.body))
        for one in used:
            store.use(one.digest)
        await arriving.append(memoryview(content.body))
        arriving.verify(len(content.body))
        await arriving.commit()


def test_blob_stored_after_a_use_is_more_recent(tmp_path: Path) -> None:
    """A use that was noted during a download is not later than the end of the download."""

    async def scene() -> None:
        async with stores(tmp_path, 200) as (store, _):
            await put(store, OLD)
            await ingest(store, NEW, OLD)
            await put(store, MORE)
            assert (OLD.digest in store, NEW.digest in store) == (False, True)

    with new_loop() as loop:
        loop.run(scene())


def test_base_layer_stays_while_images_on_it_are_stored(tmp_path: Path) -> None:
    """Clients that have the layer never request it: storing the manifest is its use."""

    async def scene() -> None:
        async with stores(tmp_path, 250) as (store, facts):
            await put(store, OLD, NEW)
            assert IMAGE.fact is not None
            await facts.keep_manifest(IMAGE.digest, IMAGE.fact)
            await put(store, IMAGE, MORE)
            assert (OLD.digest in store, NEW.digest in store) == (True, False)

    with new_loop() as loop:
        loop.run(scene())


def test_a_use_reaches_through_two_levels(tmp_path: Path) -> None:
    """A use of an index reaches its images and their layers."""
    index = manifest("index", 50, IMAGE)

    async def scene() -> None:
        async with stores(tmp_path, 300) as (store, facts):
            for one in (IMAGE, index):
                assert one.fact is not None
                await facts.keep_manifest(one.digest, one.fact)
            await put(store, OLD, IMAGE, index, NEW)
            store.use(index.digest)
            await put(store, MORE)
            assert (OLD.digest in store, NEW.digest in store) == (True, False)

    with new_loop() as loop:
        loop.run(scene())


def test_use_counts_while_it_is_being_applied(tmp_path: Path) -> None:
    """A reservation meanwhile waits for it, or the blob that was just used would be evicted."""

    async def scene() -> None:
        async with stores(tmp_path, 200) as (store, facts):
            await put(store, OLD, NEW)
            await store.flush()
            store.use(OLD.digest)
            facts.answers.clear()
            flushing = asyncio.create_task(store.flush())
            await asyncio.sleep(1)
            putting = asyncio.create_task(put(store, MORE))
            await asyncio.sleep(1)
            facts.answers.set()
            await asyncio.gather(flushing, putting)
            assert (OLD.digest in store, NEW.digest in store) == (True, False)

    with new_loop() as loop:
        loop.run(scene())


def test_uses_are_applied_in_their_order(tmp_path: Path) -> None:
    """This holds for two concurrent calls of which the first takes longer."""

    async def scene() -> None:
        async with stores(tmp_path, 300) as (store, facts):
            await put(store, OLD, NEW)
            await store.flush()
            store.use(NEW.digest)
            facts.answers.clear()
            first = asyncio.create_task(store.flush())
            await asyncio.sleep(1)
            store.use(OLD.digest)
            second = asyncio.create_task(store.flush())
            await asyncio.sleep(1)
            facts.answers.set()
            await asyncio.gather(first, second)
            await put(store, MORE, layer("last", 100))
            assert (OLD.digest in store, NEW.digest in store) == (True, False)

    with new_loop() as loop:
        loop.run(scene())


@pytest.mark.parametrize("before", [(), (OLD, NEW, MORE)], ids=["empty", "full"])
def test_space_is_freed_once_for_each_reservation(tmp_path: Path, before: tuple[Content, ...]) -> None:
    """Concurrent reservations do not count the same space, and those that fail raise NoSpace."""

    async def scene() -> None:
        async with stores(tmp_path, 300) as (store, _):
            await put(store, *before)
            putting = (put(store, layer(f"another {number}", 150)) for number in range(4))
            failures = await asyncio.gather(*putting, return_exceptions=True)
            assert all(isinstance(failure, NoSpace) for failure in failures if failure is not None)
            assert failures.count(None) >= 2
            on_disk = sum(path.stat().st_size for path in (tmp_path / "blobs").rglob("*") if path.is_file())
            assert on_disk == store.occupied <= 300

    with new_loop() as loop:
        loop.run(scene())


def test_only_changed_rows_are_written(tmp_path: Path) -> None:
    """Maintenance runs every 30 s, and writes only the rows of blobs that changed since."""

    class CountingFacts(DiskFacts):
        written = 0

        async def keep_blobs(self, rows: Sequence[BlobRow]) -> bool:
            self.written += len(rows)
            return await super().keep_blobs(rows)

    async def scene() -> list[int]:
        cache, counts = CacheSettings(path=tmp_path, max_size=1000, min_free=0), []
        async with CountingFacts.open(tmp_path / "ledger") as facts:
            assert isinstance(facts, CountingFacts)
            async with DiskStore.at(cache, facts, Metrics()) as store:
                await put(store, OLD, NEW)
                for used in (None, None, OLD):
                    if used is not None:
                        store.use(used.digest)
                    await store.flush()
                    counts.append(facts.written)
        return counts

    with new_loop() as loop:
        assert loop.run(scene()) == [2, 2, 3]


async def test_rows_that_reference_each_other_are_applied_once(tmp_path: Path) -> None:
    """No content can do so, but planted rows can."""
    async with stores(tmp_path, 1000) as (store, facts):
        await put(store, OLD, NEW)
        await facts.keep_manifest(OLD.digest, ManifestFact("", (NEW.digest,)))
        await facts.keep_manifest(NEW.digest, ManifestFact("", (OLD.digest,)))
        store.use(OLD.digest)
        await store.flush()
        assert OLD.digest in store


async def test_use_of_a_deep_index_takes_time_for_its_blobs_and_not_for_its_paths(tmp_path: Path) -> None:
    """An index of indexes of the same images references each of their layers a hundred thousand times."""
    layers = [Digest.of(str(number).encode()) for number in range(1000)]
    images, indexes = ([layer(f"{kind} {number}", 10) for number in range(100)] for kind in ("image", "index"))
    root = layer("root", 10)
    async with stores(tmp_path, 10_000) as (store, facts):
        await put(store, *images, *indexes, root)
        for one in images:
            await facts.keep_manifest(one.digest, ManifestFact("", tuple(layers)))
        for one in indexes:
            await facts.keep_manifest(one.digest, ManifestFact("", tuple(image.digest for image in images)))
        await facts.keep_manifest(root.digest, ManifestFact("", tuple(one.digest for one in indexes)))
        store.use(root.digest)
        started = time.process_time()
        await store.flush()
        assert time.process_time() - started < 2  # seconds
