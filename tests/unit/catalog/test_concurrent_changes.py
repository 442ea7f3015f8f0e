"""Changes of rights, names and pins that happen at the same time, and callers that leave in the middle."""

import asyncio
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from mirror.oci.digest import Digest
from mirror.oci.image_names import Image
from mirror.oci.manifest import Manifest
from mirror.oci.names import Tag
from mirror.storage.disk import DiskStore
from tests.unit.catalog.caches import APP, IMAGE, OTHER, V1, cache_at, image_of


async def test_cancelled_load_of_rights_disturbs_no_other(tmp_path: Path) -> None:
    """Two repositories are loaded, the client of the second leaves, and a blob is evicted."""
    victim = b"victim"
    async with cache_at(tmp_path) as cache:
        manifest = await cache.pull(APP, V1)
        await cache.pull(OTHER, V1)
        await cache.store.put(Digest.of(victim), victim)
    async with cache_at(tmp_path) as cache:
        thread_is_free = threading.Event()
        cache.facts._thread.submit(thread_is_free.wait)
        first = asyncio.create_task(cache.catalog.holds(APP, manifest.digest))
        second = asyncio.create_task(cache.catalog.holds(OTHER, manifest.digest))
        await asyncio.sleep(0)
        second.cancel()
        evicting = asyncio.create_task(cache.store.discard(Digest.of(victim)))
        await asyncio.sleep(0)
        thread_is_free.set()
        with suppress(asyncio.CancelledError):
            await second
        await evicting
        assert await first


async def test_cancelled_listing_hides_no_tag(tmp_path: Path) -> None:
    """The first listing reads all names; a client that leaves must not leave half of them."""
    async with cache_at(tmp_path) as cache:
        await cache.pull(APP, V1)
    async with cache_at(tmp_path) as cache:
        listing = asyncio.create_task(cache.catalog.tags(APP))
        await asyncio.sleep(0)
        listing.cancel()
        with suppress(asyncio.CancelledError):
            await listing
        assert (await cache.catalog.tags(APP)).keys() == {V1}


async def test_tag_that_is_kept_during_the_first_listing_is_listed(tmp_path: Path) -> None:
    async with cache_at(tmp_path) as cache:
        await cache.pull(APP, V1)
    async with cache_at(tmp_path) as cache:
        listing = asyncio.create_task(cache.catalog.tags(APP))
        await asyncio.sleep(0)
        await cache.pull(APP, Tag("v2"))
        await listing
        assert (await cache.catalog.tags(APP)).keys() == {V1, Tag("v2")}


async def test_removal_spares_a_right_that_is_given_again(tmp_path: Path) -> None:
    """`mirror rm` beside an import of the same content: the row of the import stays."""
    async with cache_at(tmp_path) as cache:
        going = [(await cache.pull(APP, Tag(f"t{number}"))) for number in range(30)]
        removing = asyncio.create_task(cache.catalog.drop_holdings(APP, [one.digest for one in going]))
        await asyncio.sleep(0)
        await cache.catalog.keep_manifest(APP, going[0], proof="imported")
        await removing
    async with cache_at(tmp_path) as cache:
        assert [await cache.catalog.holds(APP, one.digest) for one in going] == [True] + [False] * 29


async def test_image_that_is_pinned_again_while_it_is_unpinned_stays_pinned(tmp_path: Path) -> None:
    async with cache_at(tmp_path) as cache:
        manifest = await cache.pull(APP, V1)
        await cache.images.pin([IMAGE])
        unpinning = asyncio.create_task(cache.images.unpin([IMAGE]))
        await asyncio.sleep(0)
        await cache.images.pin([IMAGE])
        await unpinning
        await cache.images.hold_pinned()
        assert IMAGE in await cache.facts.pins()
        assert not await cache.store.discard(manifest.digest)


async def test_gc_spares_images_that_are_pulled_meanwhile(tmp_path: Path) -> None:
    async with cache_at(tmp_path) as cache:
        for number in range(50):
            garbage = b"%d" % number
            await cache.store.put(Digest.of(garbage), garbage)
        collecting = asyncio.create_task(cache.images.collect())
        pulled: list[Manifest] = []
        while not collecting.done():
            pulled.append(await cache.pull(APP, Tag(f"t{len(pulled)}")))
        assert collecting.result()
        for manifest in pulled:
            assert manifest.digest in cache.store
            assert all(one.digest in cache.store for one in manifest.references)
            assert await cache.catalog.holds(APP, manifest.digest)


async def test_index_names_an_image_whose_facts_were_kept_before_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """index.json may be written in between; it also loses the names of content that was evicted."""
    put = DiskStore.put
    async with cache_at(tmp_path) as cache:
        manifest = image_of(Digest.of(b"layer"))
        image = Image(APP, manifest.digest)

        async def put_later(store: DiskStore, digest: Digest, content: bytes) -> None:
            await cache.images.save_changed()
            await put(store, digest, content)

        monkeypatch.setattr(DiskStore, "put", put_later)
        await cache.catalog.keep_manifest(APP, manifest)
        await cache.images.save_changed()
        assert cache.names() == {str(image)}
        await cache.store.discard(manifest.digest)
        await cache.images.save_changed()
        assert cache.names() == set()
