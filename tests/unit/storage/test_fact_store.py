"""The fact store: facts that survive a restart, and damage that is never worse than a missing fact."""

import asyncio
import math
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path

import diskcache
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from structlog.testing import capture_logs

from mirror.errors import StorageFailed
from mirror.oci.digest import Digest
from mirror.oci.image_names import Image
from mirror.oci.names import Repository, Tag
from mirror.storage.fact_store import DiskFacts
from mirror.storage.facts import HeldFact, ManifestFact, TagFact
from tests.real.mounts import small_disk
from tests.unit.loops import Loop, new_loop
from tests.unit.texts import digests

APP, TOOL = Repository("quay.io", "org/app"), Repository("docker.io", "org/app")
LATEST, EDGE = Tag("latest"), Tag("edge")
DIGESTS = [Digest.of(bytes([number]), algorithm) for number in range(3) for algorithm in ("sha256", "sha512")]
IMAGES = [Image(APP, LATEST), Image(TOOL, EDGE), Image(Repository("localhost:5000", "a"), DIGESTS[0])]

repositories = st.sampled_from([APP, TOOL])
tags = st.sampled_from([LATEST, EDGE])
few = st.sampled_from(DIGESTS)
times = st.floats(0, 2**40).map(lambda time: round(time, 3))
tag_facts = st.builds(TagFact, few, times)
media_types = st.sampled_from(["application/json", "a/b"])
manifest_facts = st.builds(ManifestFact, media_types, st.lists(few, max_size=3).map(tuple))
held_facts = st.builds(HeldFact, st.none() | media_types, st.sampled_from(["pulled", "confirmed", "imported"]), times)


@contextmanager
def directory() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="facts-"))
    try:
        yield root
    finally:
        shutil.rmtree(root)


async def blobs_of(facts: DiskFacts) -> dict[str, tuple[int, float]]:
    """Return size and last use of every blob, by hex digits."""
    found: dict[str, tuple[int, float]] = {}

    def take(name: str, size: int, used: float) -> None:
        assert name not in found
        found[name] = (size, used)

    await facts.load_blobs(take)
    return found


class FactsMachine(RuleBasedStateMachine):
    """The fact store, compared with dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="facts-"))
        self.loop = Loop()
        self.tags: dict[tuple[Repository, Tag], TagFact] = {}
        self.manifests: dict[Digest, ManifestFact] = {}
        self.held: dict[Repository, dict[Digest, HeldFact]] = {APP: {}, TOOL: {}}
        self.blobs: dict[Digest, tuple[int, float]] = {}
        self.pins: set[Image] = set()

    @initialize()
    def open(self) -> None:
        self.context = DiskFacts.open(self.root / "ledger")
        self.facts = self.loop.run(self.context.__aenter__())

    @rule()
    def reopen(self) -> None:
        """Every fact survives a restart, read alone and in listings."""
        self.loop.run(self.context.__aexit__(None, None, None))
        self.open()
        for repository in (APP, TOOL):
            for tag in (LATEST, EDGE):
                assert self.loop.run(self.facts.tag(repository, tag)) == self.tags.get((repository, tag))
            assert self.loop.run(self.facts.held(repository)) == self.held[repository]
            ours = {tag: fact.digest for (one, tag), fact in self.tags.items() if one == repository}
            assert self.loop.run(self.facts.tags(repository)) == ours
        for digest in DIGESTS:
            assert self.loop.run(self.facts.manifest(digest)) == self.manifests.get(digest)
        assert self.loop.run(self.facts.all_tags()) == self.tags
        assert self.loop.run(self.facts.all_held()) == {name: held for name, held in self.held.items() if held}
        assert self.loop.run(self.facts.manifests(DIGESTS)) == self.manifests
        assert self.loop.run(self.facts.pins()) == self.pins
        blobs = {digest.hex: row for digest, row in self.blobs.items()}
        assert self.loop.run(blobs_of(self.facts)) == blobs

    @rule()
    def sync(self) -> None:
        self.loop.run(self.facts.sync())

    @rule(repository=repositories, tag=tags, fact=tag_facts)
    def keep_tag(self, repository: Repository, tag: Tag, fact: TagFact) -> None:
        self.loop.run(self.facts.keep_tag(repository, tag, fact))
        self.tags[repository, tag] = fact

    @rule(repository=repositories, tag=tags)
    def drop_tag(self, repository: Repository, tag: Tag) -> None:
        self.loop.run(self.facts.drop_tag(repository, tag))
        self.tags.pop((repository, tag), None)

    @rule(digest=few, fact=manifest_facts)
    def keep_manifest(self, digest: Digest, fact: ManifestFact) -> None:
        self.loop.run(self.facts.keep_manifest(digest, fact))
        self.manifests[digest] = fact

    @rule(digest=few, fact=manifest_facts)
    def add_manifest(self, digest: Digest, fact: ManifestFact) -> None:
        assert self.loop.run(self.facts.add_manifests({digest: fact}))
        self.manifests.setdefault(digest, fact)

    @rule(repository=repositories, digest=few, fact=held_facts)
    def keep_held(self, repository: Repository, digest: Digest, fact: HeldFact) -> None:
        self.loop.run(self.facts.keep_held(repository, digest, fact))
        self.held[repository][digest] = fact

    @rule(repository=repositories, digest=few)
    def drop_held(self, repository: Repository, digest: Digest) -> None:
        self.loop.run(self.facts.drop_held(repository, digest))
        self.held[repository].pop(digest, None)

    @rule(image=st.sampled_from(IMAGES), pinned=st.booleans())
    def pin(self, image: Image, pinned: bool) -> None:
        self.loop.run((self.facts.keep_pin if pinned else self.facts.drop_pin)(image))
        (self.pins.add if pinned else self.pins.discard)(image)

    @rule(rows=st.dictionaries(few, st.tuples(st.integers(0, 2**63 - 1), times)))
    def keep_blobs(self, rows: dict[Digest, tuple[int, float]]) -> None:
        assert self.loop.run(self.facts.keep_blobs([(str(digest), *row) for digest, row in rows.items()]))
        self.blobs |= rows

    @rule(gone=st.sets(few))
    def drop_blobs(self, gone: set[Digest]) -> None:
        """Only sizes and last uses."""
        self.loop.run(self.facts.drop_blobs(list(map(str, gone))))
        self.blobs = {digest: row for digest, row in self.blobs.items() if digest not in gone}

    @rule(gone=st.sets(few), kept=few, fact=held_facts)
    def forget_content(self, gone: set[Digest], kept: Digest, fact: HeldFact) -> None:
        """All facts about content, but none that is kept after the call, although the deletion runs later."""

        async def scene() -> None:
            self.facts.forget_content(gone)
            await self.facts.keep_held(APP, kept, fact)

        self.loop.run(scene())
        for facts in (self.blobs, self.manifests, *self.held.values()):
            for digest in gone:
                facts.pop(digest, None)  # type: ignore[attr-defined]
        self.held[APP][kept] = fact

    def teardown(self) -> None:
        if hasattr(self, "facts"):
            self.reopen()
            self.loop.run(self.context.__aexit__(None, None, None))
        self.loop.close()
        shutil.rmtree(self.root)


TestFacts = FactsMachine.TestCase
TestFacts.settings = settings(max_examples=20, stateful_step_count=25)


# Damage


FACT = TagFact(DIGESTS[0], 1_700_000_000.5)
MANIFEST = ManifestFact("application/json", tuple(DIGESTS[:3]))
HELD = {digest: HeldFact("a/b", "pulled", 1_700_000_000.25) for digest in DIGESTS[:2]}
BLOBS = {digest: (number, 1_700_000_000.0 + number) for number, digest in enumerate(DIGESTS)}
BLOB_ROWS = [(str(digest), *row) for digest, row in BLOBS.items()]


async def fill(path: Path) -> None:
    async with DiskFacts.open(path) as facts:
        await facts.keep_tag(APP, LATEST, FACT)
        await facts.keep_manifest(DIGESTS[0], MANIFEST)
        for digest, fact in HELD.items():
            await facts.keep_held(APP, digest, fact)
        await facts.keep_pin(IMAGES[0])
        await facts.keep_blobs(BLOB_ROWS)


async def check_no_lie(facts: DiskFacts) -> None:
    """A fact that is read was kept, or is unknown."""
    assert await facts.tag(APP, LATEST) in {None, FACT}
    assert await facts.manifest(DIGESTS[0]) in {None, MANIFEST}
    assert (await facts.held(APP)).items() <= HELD.items()
    assert (await facts.all_tags()).items() <= {(APP, LATEST): FACT}.items()
    assert await facts.pins() <= {IMAGES[0]}
    assert (await blobs_of(facts)).items() <= {digest.hex: row for digest, row in BLOBS.items()}.items()


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


# Hostile rows


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


async def test_members_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    """Rows can gain members without another schema."""
    await fill(tmp_path / "ledger")
    with closing(sqlite3.connect(tmp_path / "ledger" / "cache.db")) as database:
        database.execute("UPDATE Cache SET value = json_set(value, '$.later', json('[1]')) WHERE key <> 'meta schema'")
        database.commit()
    async with DiskFacts.open(tmp_path / "ledger") as facts:
        assert await facts.tag(APP, LATEST) == FACT
        assert await facts.manifest(DIGESTS[0]) == MANIFEST
        assert await facts.held(APP) == HELD
        assert await facts.pins() == {IMAGES[0]}
        assert len(await blobs_of(facts)) == len(BLOBS)


async def test_recording_one_more_digest_writes_one_row(tmp_path: Path) -> None:
    """However many the repository holds: the size of the write-ahead log shows what was written."""
    path = tmp_path / "ledger"
    async with DiskFacts.open(path) as facts:
        for number in range(300):
            await facts.keep_held(APP, Digest.of(b"%d" % number), HELD[DIGESTS[0]])
        with closing(sqlite3.connect(path / "cache.db")) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        await facts.keep_held(APP, DIGESTS[1], HELD[DIGESTS[1]])
        assert (path / "cache.db-wal").stat().st_size < 40 * 4096
        assert len(await facts.held(APP)) == 301


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


# Facts that can't be written


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Fill *disk*, so that no write succeeds within the context."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    yield
    filler.unlink()


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
