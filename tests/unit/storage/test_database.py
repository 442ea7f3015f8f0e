"""The fact database: damage is never worse than a missing fact, and rows of another version are none."""

import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import diskcache
import pytest
from diskcache.core import DEFAULT_SETTINGS, METADATA
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mirror.errors import StorageFailed
from mirror.oci.names import Tag
from mirror.storage.fact_store import DiskFacts
from mirror.storage.facts import TagFact
from tests.real.mounts import small_disk
from tests.unit.loops import new_loop
from tests.unit.storage.kept_facts import (
    APP,
    BLOB_ROWS,
    DIGESTS,
    EDGE,
    FACT,
    LATEST,
    MANIFEST,
    check_no_lie,
    directory,
    fill,
    full,
)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with facts in it, to be copied and damaged."""
    path = tmp_path_factory.mktemp("filled") / "ledger"
    with new_loop() as loop:
        loop.run(fill(path))
    return path


@settings(max_examples=60)
@given(st.data())
def test_damaged_database_is_as_good_as_none(filled: Path, data: st.DataObject) -> None:
    """Whichever bytes are changed or missing: the mirror starts, and believes nothing that was not kept."""
    content = bytearray((filled / "cache.db").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 200))
        damage = data.draw(st.binary(min_size=1, max_size=64))
        content[at : at + len(damage)] = damage[: len(content) - at]
    length = data.draw(st.just(len(content)) | st.integers(0, len(content)))

    async def scene(path: Path) -> None:
        async with DiskFacts.open(path) as facts:
            await check_no_lie(facts)
            await facts.keep_tag(APP, LATEST, FACT)
            await facts.drop_tag(APP, EDGE)
            await facts.keep_blobs(BLOB_ROWS)
            facts.forget_content(DIGESTS[3:])
            await check_no_lie(facts)

    with directory() as root, new_loop() as loop:
        shutil.copytree(filled, root / "ledger")
        (root / "ledger" / "cache.db").write_bytes(content[:length])
        loop.run(scene(root / "ledger"))


@pytest.mark.parametrize("before", [False, True])
async def test_file_that_is_no_database_is_put_aside(tmp_path: Path, before: bool) -> None:
    """It is kept beside the new one, in the place of one put aside before."""
    path, aside = tmp_path / "ledger", tmp_path / "ledger.damaged"
    path.mkdir()
    (path / "cache.db").write_bytes(b"\0no database" * 1000)
    if before:
        (aside / "deep").mkdir(parents=True)
        (aside / "deep" / "file").write_text("old")
    async with DiskFacts.open(path) as facts:
        assert facts.replaced is not None
        assert await facts.tag(APP, LATEST) is None
        await facts.keep_tag(APP, LATEST, FACT)
    assert [one.name for one in aside.iterdir() if one.name.startswith("cache.db")] == ["cache.db"]
    assert (aside / "cache.db").read_bytes().startswith(b"\0no database")
    async with DiskFacts.open(path) as facts:
        assert facts.replaced is None
        assert await facts.tag(APP, LATEST) == FACT


async def test_database_with_only_a_header_is_put_aside(filled: Path, tmp_path: Path) -> None:
    """It opens, but nothing can be read from it or kept in it."""
    shutil.copytree(filled, tmp_path / "ledger")
    content = (filled / "cache.db").read_bytes()
    (tmp_path / "ledger" / "cache.db").write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    async with DiskFacts.open(tmp_path / "ledger") as facts:
        await facts.keep_tag(APP, LATEST, FACT)
        assert await facts.tag(APP, LATEST) == FACT
    assert (tmp_path / "ledger.damaged").exists()


async def test_damage_far_from_the_rows_read_first_is_found_at_the_start(tmp_path: Path) -> None:
    """Whichever page is damaged: after the start every fact can be kept, and is there."""
    kept = {Tag(f"v{number}"): TagFact(DIGESTS[0], number) for number in range(100)}
    whole = tmp_path / "whole"
    async with DiskFacts.open(whole) as facts:
        for tag, fact in kept.items():
            await facts.keep_tag(APP, tag, fact)
    content = (whole / "cache.db").read_bytes()
    for at in range(4096, len(content), 4096):
        path = tmp_path / f"{at}" / "ledger"
        path.mkdir(parents=True)
        (path / "cache.db").write_bytes(content[:at] + b"\x5a" * 4096 + content[at + 4096 :])
        async with DiskFacts.open(path) as facts:
            for tag, fact in kept.items():
                await facts.keep_tag(APP, tag, fact)
            assert [await facts.tag(APP, tag) for tag in kept] == list(kept.values()), at


async def test_damage_in_a_large_database_is_found_after_the_start(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its check would delay the start: maintenance does it, and replaces the database."""
    monkeypatch.setattr("mirror.storage.database._CHECKED_AT_START", 0)
    shutil.copytree(filled, tmp_path / "ledger")
    content = (filled / "cache.db").read_bytes()
    with closing(sqlite3.connect(filled / "cache.db")) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'Cache_tag_rowid'").fetchone()
    at = 4096 * (page - 1)
    (tmp_path / "ledger" / "cache.db").write_bytes(content[:at] + b"\x5a" * 4096 + content[at + 4096 :])
    async with DiskFacts.open(tmp_path / "ledger") as facts:
        assert await facts.tag(APP, LATEST) == FACT
        await facts.mend()
        assert facts.replaced is not None
        assert await facts.tag(APP, LATEST) is None
        await facts.keep_manifest(DIGESTS[0], MANIFEST)
        assert await facts.manifest(DIGESTS[0]) == MANIFEST


async def test_database_with_damaged_settings_is_put_aside(tmp_path: Path) -> None:
    """diskcache reads its own settings from the database before everything else, and trusts them."""
    path = tmp_path / "ledger"
    path.mkdir()
    with closing(sqlite3.connect(path / "cache.db")) as database:
        database.execute("CREATE TABLE Settings (key TEXT, value)")
        database.execute("INSERT INTO Settings VALUES (NULL, 1)")
        database.commit()
    async with DiskFacts.open(path) as facts:
        await facts.keep_tag(APP, LATEST, FACT)
        assert await facts.tag(APP, LATEST) == FACT
    assert (tmp_path / "ledger.damaged").exists()


async def test_file_in_its_place_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text("a file")
    async with DiskFacts.open(tmp_path / "ledger") as facts:
        await facts.keep_tag(APP, LATEST, FACT)
        assert await facts.tag(APP, LATEST) == FACT
    assert (tmp_path / "ledger.damaged").read_text() == "a file"


async def test_path_with_a_variable_is_refused(tmp_path: Path) -> None:
    """diskcache would write the facts to another directory."""
    with pytest.raises(StorageFailed, match="environment variable"):
        async with DiskFacts.open(tmp_path / "$HOME" / "ledger"):
            pass
    (tmp_path / "$").mkdir()
    async with DiskFacts.open(tmp_path / "$" / "ledger"):
        assert (tmp_path / "$" / "ledger" / "cache.db").exists()


async def test_impossible_path_is_refused(tmp_path: Path) -> None:
    """The message has the path: there is nothing to put aside."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match="ledger"):
        async with DiskFacts.open(tmp_path / "file" / "ledger"):
            raise AssertionError("opened")


# Another schema


async def test_database_of_the_version_before_is_replaced(tmp_path: Path) -> None:
    """Its rows are no facts here, and the reason is known; it is kept beside the new one."""
    path = tmp_path / "ledger"
    with diskcache.Cache(str(path), disk=diskcache.JSONDisk, eviction_policy="none") as cache:
        cache.set(f"holdings {APP}", [str(DIGESTS[0])])
        cache.set("whole", True)
    async with DiskFacts.open(path) as facts:
        assert facts.replaced == "its rows were written by another version"
        assert await facts.held(APP) == {}
        assert not await facts.is_rebuilt("names")
        await facts.keep_rebuilt("names")
    assert (tmp_path / "ledger.damaged" / "cache.db").exists()
    async with DiskFacts.open(path) as facts:
        assert facts.replaced is None
        assert await facts.is_rebuilt("names")


@pytest.mark.parametrize("version", ['{"version":2}', '{"version":"1"}', "1", "{", None])
async def test_database_of_a_later_version_is_replaced(filled: Path, tmp_path: Path, version: str | None) -> None:
    path = tmp_path / "ledger"
    shutil.copytree(filled, path)
    with closing(sqlite3.connect(path / "cache.db")) as database:
        database.execute("UPDATE Cache SET value = ? WHERE key = 'meta schema'", (version,))
        database.commit()
    async with DiskFacts.open(path) as facts:
        assert facts.replaced is not None
        assert await facts.tag(APP, LATEST) is None
    assert (tmp_path / "ledger.damaged" / "cache.db").exists()


@pytest.mark.parametrize("how", ["deleted", "replaced", "damaged"])
async def test_database_that_is_lost_while_open_is_replaced(tmp_path: Path, how: str) -> None:
    """Facts kept afterwards survive a restart, and the new database counts as not rebuilt."""
    path = tmp_path / "ledger"
    async with DiskFacts.open(path) as facts:
        await facts.keep_rebuilt("names")
        assert await facts.is_rebuilt("names")
        if how == "damaged":
            for file in path.iterdir():
                file.write_bytes(b"\xff" * file.stat().st_size)
            await facts.keep_tag(APP, EDGE, FACT)
        else:
            shutil.rmtree(path)
            if how == "replaced":
                path.write_text("a file")
        await facts.mend()
        assert not await facts.is_rebuilt("names")
        await facts.keep_tag(APP, LATEST, FACT)
    async with DiskFacts.open(path) as facts:
        assert await facts.tag(APP, LATEST) == FACT


@pytest.mark.needs("mount", root=True)
async def test_full_disk_is_not_taken_for_damage(filled: Path, tmp_path: Path) -> None:
    """A database that can't be opened for lack of space is not put aside."""
    with small_disk(tmp_path / "disk", 2**22) as disk:
        shutil.copytree(filled, disk / "ledger")
        with full(disk), suppress(StorageFailed):
            async with DiskFacts.open(disk / "ledger"):
                pass
        assert not (disk / "ledger.damaged").exists()
        async with DiskFacts.open(disk / "ledger") as facts:
            assert await facts.tag(APP, LATEST) == FACT


names = st.sampled_from([*DEFAULT_SETTINGS, *METADATA, *dir(diskcache.Cache), "_disk", "_local", "sqlite_query_only"])
values = st.none() | st.integers(-2, 2**40) | st.floats() | st.text(max_size=5) | st.binary(max_size=5)


@settings(max_examples=60)
@given(st.dictionaries(names | st.text(max_size=5), values, min_size=1, max_size=4), st.booleans())
@example({"sqlite_max_page_count": 1}, False)
@example({"sqlite_journal_mode": "off"}, False)
@example({"get": 1}, False)
@example({"sqlite_query_only": 1}, True)
def test_planted_settings_have_no_effect(filled: Path, planted: dict[str, object], emptied: bool) -> None:
    """diskcache takes attributes and pragmas from the database: facts must be kept, read and deleted all the same."""

    async def scene(path: Path) -> None:
        for _ in range(2):
            async with DiskFacts.open(path) as facts:
                await check_no_lie(facts)
                await facts.keep_tag(APP, LATEST, FACT)
                await facts.sync()
                assert await facts.tag(APP, LATEST) == FACT
                assert await facts.all_tags() == {(APP, LATEST): FACT}
                await facts.drop_tag(APP, LATEST)
                assert await facts.tag(APP, LATEST) is None
                with closing(sqlite3.connect(path / "cache.db")) as database:
                    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    with directory() as root, new_loop() as loop:
        shutil.copytree(filled, root / "ledger")
        with closing(sqlite3.connect(root / "ledger" / "cache.db")) as database:
            if emptied:
                database.execute("DELETE FROM Cache")
            database.executemany("INSERT OR REPLACE INTO Settings VALUES (?, ?)", planted.items())
            database.commit()
        loop.run(scene(root / "ledger"))
