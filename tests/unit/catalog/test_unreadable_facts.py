"""Facts that can't be read, or were lost, while the mirror runs: no content, name or pin is given up for that."""

import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from mirror.errors import StorageFailed
from mirror.oci.image_names import Image
from mirror.oci.names import Tag
from mirror.storage import database
from mirror.storage.facts import TagFact
from tests.unit.catalog.caches import APP, IMAGE, V1, cache_at

LEAVES = {10, 13}  # the first byte of a page of rows, of an index or a table (SQLite file format, 1.6)


def damage(path: Path, prefix: str) -> None:
    """Overwrite the pages of the database that hold rows with this prefix only."""
    file = path / "ledger" / "cache.db"
    database.checkpoint(file.parent)
    content = bytearray(file.read_bytes())
    size = int.from_bytes(content[16:18], "big")
    for at in range(size, len(content), size):
        page = content[at : at + size]
        others = (kind for kind in (b"meta ", b"manifest ", b"held ", b"pin ") if not prefix.encode().startswith(kind))
        if page[0] in LEAVES and prefix.encode() in page and not any(kind in page for kind in others):
            content[at : at + size] = bytes(size)
    file.write_bytes(content)


@pytest.mark.parametrize("how", ["removed", "damaged"])
async def test_names_and_content_survive_unreadable_facts(tmp_path: Path, how: str) -> None:
    """index.json is not overwritten and gc removes nothing; maintenance restores the facts."""
    async with cache_at(tmp_path) as cache:
        manifest = await cache.pull(APP, V1, proof="imported")
        for number in range(300):
            await cache.catalog.keep_tag(APP, Tag(f"t{number}"), TagFact(manifest.digest, 1.0))
        await cache.images.pin([IMAGE])
        before, stored = cache.names(), len(cache.store)
        if how == "removed":
            shutil.rmtree(tmp_path / "ledger")
        else:
            damage(tmp_path, f"tag {APP}:t")
        for operation in (cache.images.collect, cache.images.save, cache.images.all):
            with pytest.raises(StorageFailed, match="fact database"):
                await operation()
        with suppress(StorageFailed):
            await cache.images.save_changed()
        assert (cache.names(), len(cache.store)) == (before, stored)
        await cache.maintain()
        assert cache.names() == before
        assert IMAGE in await cache.facts.pins()
        assert await cache.catalog.holds(APP, manifest.digest)
    async with cache_at(tmp_path) as cache:
        assert await cache.catalog.holds(APP, manifest.digest)
        assert await cache.catalog.tag(APP, V1) is not None


async def test_unreadable_pins_are_damage_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large database is checked after the start, but content that is pinned could be evicted before."""
    monkeypatch.setattr(database, "_CHECKED_AT_START", 0)
    async with cache_at(tmp_path) as cache:
        await cache.pull(APP, V1)
        images = [IMAGE, *(Image(APP, Tag(f"t{number}")) for number in range(300))]
        await cache.images.pin(images)
    damage(tmp_path, "pin ")
    async with cache_at(tmp_path) as cache:
        assert IMAGE in await cache.facts.pins()


async def test_facts_learned_after_a_loss_are_written(tmp_path: Path) -> None:
    """A fact in memory does not count as written in the new database."""
    async with cache_at(tmp_path) as cache:
        manifest = await cache.pull(APP, V1)
        shutil.rmtree(tmp_path / "ledger")
        await cache.facts.mend()
        await cache.rebuild.names()
        assert await cache.pull(APP, V1) == manifest
        await cache.images.pin([IMAGE])
    async with cache_at(tmp_path) as cache:
        assert await cache.catalog.holds(APP, manifest.digest)
        assert [str(one.image) for one in await cache.images.all()] == [str(IMAGE)]


async def test_success_is_not_reported_for_a_removed_database(tmp_path: Path) -> None:
    async with cache_at(tmp_path) as cache:
        await cache.pull(APP, V1)
        shutil.rmtree(tmp_path / "ledger")
        with pytest.raises(StorageFailed, match="removed or replaced"):
            await cache.facts.sync()
        with pytest.raises(StorageFailed, match="fact database"):
            await cache.images.pin([IMAGE])
        await cache.facts.mend()
        with pytest.raises(StorageFailed, match="is being restored"):
            await cache.images.pin([IMAGE])
        await cache.maintain()
        await cache.images.pin([IMAGE])


async def test_rights_survive_a_start_without_the_blobs(tmp_path: Path) -> None:
    """A volume that is mounted late: the facts are as good as before when it is there."""
    async with cache_at(tmp_path / "cache") as cache:
        manifest = await cache.pull(APP, V1, proof="imported")
        await cache.images.pin([IMAGE])
    (tmp_path / "cache" / "blobs").rename(tmp_path / "aside")
    async with cache_at(tmp_path / "cache") as cache:
        assert not len(cache.store)
    shutil.rmtree(tmp_path / "cache" / "blobs")
    (tmp_path / "aside").rename(tmp_path / "cache" / "blobs")
    async with cache_at(tmp_path / "cache") as cache:
        assert await cache.catalog.holds(APP, manifest.digest)
        assert [one.is_pinned for one in await cache.images.all()] == [True]
