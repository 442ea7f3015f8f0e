"""Rows that another program wrote into the fact database: never code, never a file, never a wrong type."""

import math
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import diskcache
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mirror.config import CacheSettings
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.oci.names import Tag
from mirror.storage.disk import DiskStore
from mirror.storage.fact_store import DiskFacts
from tests.unit.loops import new_loop
from tests.unit.storage.kept_facts import (
    APP,
    BLOB_ROWS,
    BLOBS,
    DIGESTS,
    FACT,
    HELD,
    IMAGES,
    LATEST,
    MANIFEST,
    blobs_of,
    check_no_lie,
    directory,
    fill,
)
from tests.unit.texts import digests


class Code:
    """An object whose unpickling leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.trace,)


NAMES = (
    f"tag {APP}:{LATEST}",
    f"manifest {DIGESTS[0]}",
    f"held {APP} {DIGESTS[0]}",
    f"pin {IMAGES[0]}",
    f"blob {DIGESTS[0]}",
    "meta scrubbed",
)
OTHER = Digest.of(b"other")
COLUMNS = ("mode", "filename", "value", "tag")


@asynccontextmanager
async def with_rows(path: Path, **columns: object) -> AsyncIterator[DiskFacts]:
    """A fact store in which every row has these columns."""
    async with DiskFacts.open(path) as facts:
        for name in NAMES:
            await facts._set(name, {}, DIGESTS[0])
    with closing(sqlite3.connect(path / "cache.db")) as database:
        for column in COLUMNS:
            if column in columns:
                database.execute(f"UPDATE Cache SET {column} = ? WHERE key <> 'meta schema'", (columns[column],))
        database.commit()
    async with DiskFacts.open(path) as facts:
        yield facts


async def use_all(facts: DiskFacts) -> None:
    """Read, list, overwrite and delete every row."""
    await check_no_lie(facts)
    await facts.scrubbed()
    await facts.keep_tag(APP, LATEST, FACT)
    await facts.keep_manifest(DIGESTS[0], MANIFEST)
    assert await facts.tag(APP, LATEST) == FACT
    assert await facts.manifest(DIGESTS[0]) == MANIFEST
    await facts.drop_pin(IMAGES[0])
    facts.forget_content([DIGESTS[0]])
    assert await facts.manifest(DIGESTS[0]) is None
    await facts.keep_blobs(BLOB_ROWS)
    assert await blobs_of(facts) == {digest.hex: row for digest, row in BLOBS.items()}


@pytest.mark.parametrize("in_a_file", [False, True])
async def test_pickle_is_never_loaded(tmp_path: Path, in_a_file: bool) -> None:
    """Otherwise a user with write access to the cache directory could run code in the mirror."""
    trace = tmp_path / "trace"
    with diskcache.Cache(str(tmp_path / "other"), disk=diskcache.Disk) as cache:
        cache.set("code", Code(trace))
    with closing(sqlite3.connect(tmp_path / "other" / "cache.db")) as database:
        mode, pickled = database.execute("SELECT mode, value FROM Cache").fetchone()
    assert mode == 4
    (tmp_path / "code").write_bytes(pickled)
    columns = {"filename": "../code", "value": None} if in_a_file else {"value": pickled}
    with capture_logs() as events:
        async with with_rows(tmp_path / "ledger", mode=4, **columns) as facts:
            await use_all(facts)
    assert (tmp_path / "code").exists()
    assert not trace.exists()
    assert [event["event"] for event in events].count("facts_invalid") == 1
    with diskcache.Cache(str(tmp_path / "other"), disk=diskcache.Disk) as cache:
        cache.get("code")
    assert trace.exists(), "the pickle would have left a trace"


@pytest.mark.parametrize("mode", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["../victim", "victim", "{absolute}"])
async def test_file_of_a_row_is_neither_opened_nor_removed(tmp_path: Path, mode: int, name: str) -> None:
    """diskcache would read it, and remove it with the row."""
    (tmp_path / "ledger").mkdir()
    victims = [tmp_path / "victim", tmp_path / "ledger" / "victim"]
    for victim in victims:
        victim.write_text('{"digest":"","checked":1}')
    filename = name.format(absolute=victims[0])
    async with with_rows(tmp_path / "ledger", mode=mode, filename=filename, value=None) as facts:
        await use_all(facts)
    async with with_rows(tmp_path / "ledger", mode=mode, filename=filename, value='{"part":1}') as facts:
        await use_all(facts)
    assert all(victim.exists() for victim in victims)


HUGE = '"' + "a" * 2**23 + '"'
ODD = [7, 2**60, 1.5, "text", b"bytes", b"", "", "{", "[" * 10**5, "[]", "null", b'{"size":1,"used":1}', b"\xff", HUGE]


@pytest.mark.parametrize("value", [*ODD, None], ids=lambda value: repr(value)[:12])
async def test_row_of_another_kind_is_unknown(tmp_path: Path, value: object) -> None:
    """A number, bytes, text that is no JSON, too deep, or too large. It is reported once, and can be overwritten."""
    with capture_logs() as events:
        async with with_rows(tmp_path / "ledger", value=value) as facts:
            assert await blobs_of(facts) == {}
            await use_all(facts)
    (event,) = [event for event in events if event["event"] == "facts_invalid"]
    assert event["rows"] >= 1
    assert event["first"] == NAMES[4]


async def test_row_that_is_not_utf_8_hides_no_other(tmp_path: Path) -> None:
    """SQLite does not check text; Python's driver would end the listing with an error."""
    path = tmp_path / "ledger"
    await fill(path)
    with closing(sqlite3.connect(path / "cache.db")) as database:
        for key in (f"tag {APP}:bad", "tag \udcff"):
            database.execute(
                "INSERT INTO Cache (key, raw, mode, value) VALUES (CAST(? AS TEXT), 1, 1, CAST(x'ff' AS TEXT))",
                (key.encode(errors="surrogateescape"),),
            )
        database.execute("UPDATE Cache SET value = CAST(x'ff' AS TEXT) WHERE key = ?", (f"blob {DIGESTS[0]}",))
        database.commit()
    async with DiskFacts.open(path) as facts:
        assert await facts.all_tags() == {(APP, LATEST): FACT}
        assert len(await blobs_of(facts)) == len(BLOBS) - 1
        assert await facts.tag(APP, Tag("bad")) is None


json_leaves = st.one_of(
    *(st.none(), st.booleans(), st.integers(-(2**63), 2**63), st.floats(), st.text(max_size=5), digests.map(str))
)
json_values = st.recursive(
    json_leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(digests.map(str) | st.just(""), inner, max_size=3),
    max_leaves=6,
)
members = st.sampled_from(["digest", "checked", "media_type", "references", "proof", "proven_at", "size", "used"])


@settings(max_examples=50)
@given(json_values | st.dictionaries(members, json_values))
@example({"digest": str(DIGESTS[0]), "checked": 10**18})
@example({"size": -1, "used": 1})
@example({"size": True, "used": 1})
@example({"size": 1, "used": True})
@example({"size": 1, "used": 1e300})
@example({"media_type": "a/b", "references": [str(DIGESTS[0]), 1]})
@example({"media_type": 1, "proof": "pulled", "proven_at": 1})
@example({"media_type": None, "proof": "guessed", "proven_at": 1})
def test_any_json_in_a_row_is_a_fact_or_unknown(value: object) -> None:
    """Each fact has the types that it claims to have."""

    async def scene(path: Path) -> None:
        async with with_rows(path, value=orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()) as facts:
            fact = await facts.tag(APP, LATEST)
            assert fact is None or (type(fact.digest) is Digest and math.isfinite(fact.checked))
            manifest = await facts.manifest(DIGESTS[0])
            assert manifest is None or type(manifest.media_type) is str
            assert manifest is None or all(type(one) is Digest for one in manifest.references)
            for held in (await facts.held(APP)).values():
                assert held.media_type is None or type(held.media_type) is str
                assert held.proof in {"pulled", "confirmed", "imported"}
                assert math.isfinite(held.proven_at)
            for size, used in (await blobs_of(facts)).values():
                assert type(size) is int
                assert size >= 0
                assert type(used) is float
                assert math.isfinite(used)

    with directory() as root, new_loop() as loop:
        loop.run(scene(root / "ledger"))


anything = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
similar = st.sampled_from([*NAMES, *(name.encode() for name in NAMES), "blob ", "held x", f"tag {APP}:{DIGESTS[0]}"])
planted_rows = st.fixed_dictionaries(
    {
        "key": anything | similar,
        "raw": st.sampled_from([0, 1, 2, None, "1"]) | anything,
        "expire_time": st.none() | st.floats() | anything,
        "tag": anything | st.sampled_from([str(DIGESTS[0]), str(OTHER)]),
        "mode": st.integers(-1, 5) | anything,
        "filename": st.none() | st.sampled_from(["/dev/null", "../kept", ""]) | anything,
        "value": anything | st.sampled_from(["{}", '{"digest":1}', "[", '{"size":1,"used":1.0}', "x" * 5000]),
    }
)


@settings(max_examples=80)
@given(st.lists(planted_rows, min_size=1, max_size=4))
def test_no_row_of_any_type_hides_another(planted: list[dict[str, object]]) -> None:
    """The mirror's own facts stay readable and can be deleted, for any type of a column."""

    async def scene(path: Path) -> None:
        await fill(path)
        with closing(sqlite3.connect(path / "cache.db")) as database:
            for row in planted:
                columns = ", ".join(row)
                database.execute(
                    f"INSERT OR IGNORE INTO Cache ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", tuple(row.values())
                )
            database.commit()
        async with DiskFacts.open(path) as facts:
            assert facts.replaced is None
            facts.forget_content([OTHER])
            assert await facts.tag(APP, LATEST) == FACT
            assert (await facts.all_tags())[APP, LATEST] == FACT
            assert await facts.manifest(DIGESTS[0]) == MANIFEST
            assert (await facts.held(APP)).items() >= HELD.items()
            assert await facts.pins() >= {IMAGES[0]}
            assert (await blobs_of(facts)).items() >= {digest.hex: row for digest, row in BLOBS.items()}.items()
            facts.forget_content(DIGESTS)
            assert await facts.manifest(DIGESTS[0]) is None
            assert not {*HELD} & {*await facts.held(APP)}

    with directory() as root, new_loop() as loop:
        (root / "kept").write_text("kept")
        loop.run(scene(root / "ledger"))
        assert (root / "kept").read_text() == "kept"


names = st.text("0aAé٣/", min_size=1, max_size=128) | st.integers(1, 128).map(lambda length: "é" * length)


@settings(max_examples=40)
@given(st.lists(names, min_size=1, max_size=4), st.sampled_from(["sha256", "sha512"]))
@example(["é" * 32], "sha256")
@example(["a" * 64, "A" * 64], "sha256")
def test_no_key_of_a_row_stops_a_start(planted: list[str], algorithm: str) -> None:
    """The start builds digests from the keys of blobs: a planted key is at worst a blob without a file."""

    async def scene(path: Path) -> None:
        await fill(path / "ledger")
        with closing(sqlite3.connect(path / "ledger" / "cache.db")) as database:
            for name in planted:
                database.execute(
                    "INSERT OR IGNORE INTO Cache (key, raw, mode, value) VALUES (?, 1, 1, ?)",
                    (f"blob {algorithm}:{name}", '{"size":1,"used":1.0}'),
                )
            database.commit()
        kept = path / "blobs" / DIGESTS[0].algorithm / DIGESTS[0].hex
        kept.parent.mkdir(parents=True)
        kept.touch()
        cache = CacheSettings(path=path, max_size=2**20, min_free=0)
        async with DiskFacts.open(path / "ledger") as facts, DiskStore.at(cache, facts, Metrics()) as store:
            assert len(store) == 1
            assert DIGESTS[0] in store

    with directory() as root, new_loop() as loop:
        loop.run(scene(root))
