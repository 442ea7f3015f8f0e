"""The ledger: facts that are there again after a restart, and damage that is never worse than knowing nothing."""

import json
import math
import os
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path

import diskcache
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from mirror.errors import StorageFailed
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.storage.facts import ManifestFact, TagFact
from mirror.storage.ledger import DiskLedger
from tests.real.mounts import small_disk
from tests.unit.loops import Loop, new_loop
from tests.unit.texts import digests

APP, TOOL = Repository("quay.io", "org/app"), Repository("docker.io", "org/app")
LATEST, EDGE = Tag("latest"), Tag("edge")
DIGESTS = [Digest.of(bytes([number]), algorithm) for number in range(3) for algorithm in ("sha256", "sha512")]

repositories = st.sampled_from([APP, TOOL])
tags = st.sampled_from([LATEST, EDGE])
few = st.sampled_from(DIGESTS)
times = st.floats(0, 2**40)
tag_facts = st.builds(TagFact, few, times)
manifest_facts = st.builds(
    ManifestFact, st.sampled_from(["application/json", "a/b"]), st.lists(few, max_size=3).map(tuple)
)


@contextmanager
def directory() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="ledger-"))
    try:
        yield root
    finally:
        shutil.rmtree(root)


class LedgerMachine(RuleBasedStateMachine):
    """Beside dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="ledger-"))
        self.loop = Loop()
        self.tags: dict[tuple[Repository, Tag], TagFact] = {}
        self.manifests: dict[Digest, ManifestFact] = {}
        self.holdings: dict[Repository, frozenset[Digest]] = {}
        self.uses: dict[Digest, float] = {}

    @initialize()
    def open(self) -> None:
        self.context = DiskLedger.open(self.root / "ledger")
        self.ledger = self.loop.run(self.context.__aenter__())

    @rule()
    def reopen(self) -> None:
        """Everything is there again."""
        self.loop.run(self.context.__aexit__(None, None, None))
        self.open()
        for repository in (APP, TOOL):
            for tag in (LATEST, EDGE):
                assert self.loop.run(self.ledger.tag(repository, tag)) == self.tags.get((repository, tag))
            assert self.loop.run(self.ledger.holdings(repository)) == self.holdings.get(repository, frozenset())
        for digest in DIGESTS:
            assert self.loop.run(self.ledger.manifest(digest)) == self.manifests.get(digest)
        assert self.loop.run(self.ledger.manifests(DIGESTS)) == self.manifests
        assert self.loop.run(self.ledger.uses()) == pytest.approx(self.uses, abs=0.001)

    @rule(repository=repositories, tag=tags, fact=tag_facts)
    def keep_tag(self, repository: Repository, tag: Tag, fact: TagFact) -> None:
        self.loop.run(self.ledger.keep_tag(repository, tag, fact))
        self.tags[repository, tag] = fact

    @rule(repository=repositories, tag=tags)
    def drop_tag(self, repository: Repository, tag: Tag) -> None:
        self.loop.run(self.ledger.drop_tag(repository, tag))
        self.tags.pop((repository, tag), None)

    @rule(digest=few, fact=manifest_facts)
    def keep_manifest(self, digest: Digest, fact: ManifestFact) -> None:
        self.loop.run(self.ledger.keep_manifest(digest, fact))
        self.manifests[digest] = fact

    @rule(repository=repositories, held=st.sets(few))
    def keep_holdings(self, repository: Repository, held: set[Digest]) -> None:
        self.loop.run(self.ledger.keep_holdings(repository, held))
        self.holdings[repository] = frozenset(held)

    @rule(uses=st.dictionaries(few, times))
    def keep_uses(self, uses: dict[Digest, float]) -> None:
        """They replace what was known of them, wholly."""
        self.loop.run(self.ledger.keep_uses(uses))
        self.uses = uses

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.reopen()
            self.loop.run(self.context.__aexit__(None, None, None))
        self.loop.close()
        shutil.rmtree(self.root)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=20, stateful_step_count=25)


# What is damaged


FACT = TagFact(DIGESTS[0], 1_700_000_000.5)
MANIFEST = ManifestFact("application/json", tuple(DIGESTS[:3]))
HELD = frozenset(DIGESTS[:2])
USES = {digest: 1_700_000_000.0 + number for number, digest in enumerate(DIGESTS)}


async def fill(path: Path) -> None:
    async with DiskLedger.open(path) as ledger:
        await ledger.keep_tag(APP, LATEST, FACT)
        await ledger.keep_manifest(DIGESTS[0], MANIFEST)
        await ledger.keep_holdings(APP, HELD)
        await ledger.keep_uses(USES)


async def check_no_lie(ledger: DiskLedger) -> None:
    """What is read was kept, or is not known."""
    assert await ledger.tag(APP, LATEST) in {None, FACT}
    assert await ledger.manifest(DIGESTS[0]) in {None, MANIFEST}
    assert await ledger.holdings(APP) in {frozenset(), HELD}
    assert (await ledger.uses()).items() <= USES.items()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with facts in it, to be copied and damaged."""
    path = tmp_path_factory.mktemp("filled") / "ledger"
    with new_loop() as loop:
        loop.run(fill(path))
    return path


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_database_is_as_good_as_none(filled: Path, data: st.DataObject) -> None:
    """Whichever bytes are others, or missing: the mirror starts, and believes nothing that was not kept."""
    content = bytearray((filled / "cache.db").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 200))
        damage = data.draw(st.binary(min_size=1, max_size=64))
        content[at : at + len(damage)] = damage[: len(content) - at]
    length = data.draw(st.just(len(content)) | st.integers(0, len(content)))

    async def scene(path: Path) -> None:
        async with DiskLedger.open(path) as ledger:
            await check_no_lie(ledger)
            await ledger.keep_tag(APP, LATEST, FACT)
            await ledger.drop_tag(APP, EDGE)
            await ledger.keep_uses(USES)
            await check_no_lie(ledger)

    with directory() as root, new_loop() as loop:
        shutil.copytree(filled, root / "ledger")
        (root / "ledger" / "cache.db").write_bytes(content[:length])
        loop.run(scene(root / "ledger"))


@pytest.mark.parametrize("before", [False, True])
async def test_what_is_no_database_is_put_aside(tmp_path: Path, before: bool) -> None:
    """Beside the new one, for whoever wants to know; in the place of one put aside before."""
    path, aside = tmp_path / "ledger", tmp_path / "ledger.damaged"
    path.mkdir()
    (path / "cache.db").write_bytes(b"\0no database" * 1000)
    if before:
        (aside / "deep").mkdir(parents=True)
        (aside / "deep" / "file").write_text("old")
    async with DiskLedger.open(path) as ledger:
        assert await ledger.tag(APP, LATEST) is None
        await ledger.keep_tag(APP, LATEST, FACT)
    assert [one.name for one in aside.iterdir() if one.name.startswith("cache.db")] == ["cache.db"]
    assert (aside / "cache.db").read_bytes().startswith(b"\0no database")
    async with DiskLedger.open(path) as ledger:
        assert await ledger.tag(APP, LATEST) == FACT


async def test_a_database_with_nothing_but_its_head_is_put_aside(filled: Path, tmp_path: Path) -> None:
    """It opens, but nothing can be read or kept in it."""
    shutil.copytree(filled, tmp_path / "ledger")
    content = (filled / "cache.db").read_bytes()
    (tmp_path / "ledger" / "cache.db").write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    async with DiskLedger.open(tmp_path / "ledger") as ledger:
        await ledger.keep_tag(APP, LATEST, FACT)
        assert await ledger.tag(APP, LATEST) == FACT
    assert (tmp_path / "ledger.damaged").exists()


async def test_damage_far_from_what_is_read_at_the_start_is_found_then(tmp_path: Path) -> None:
    """Whichever page it befell: from the start on every fact can be kept, and is there."""
    facts = {Tag(f"v{number}"): TagFact(DIGESTS[0], number) for number in range(200)}
    whole = tmp_path / "whole"
    async with DiskLedger.open(whole) as ledger:
        for tag, fact in facts.items():
            await ledger.keep_tag(APP, tag, fact)
    content = (whole / "cache.db").read_bytes()
    for at in range(4096, len(content), 4096):
        path = tmp_path / f"{at}" / "ledger"
        path.mkdir(parents=True)
        (path / "cache.db").write_bytes(content[:at] + b"\x5a" * 4096 + content[at + 4096 :])
        async with DiskLedger.open(path) as ledger:
            for tag, fact in facts.items():
                await ledger.keep_tag(APP, tag, fact)
            assert [await ledger.tag(APP, tag) for tag in facts] == list(facts.values()), at


async def test_a_database_with_settings_that_are_none_is_put_aside(tmp_path: Path) -> None:
    """diskcache reads settings of its own there, before all else, and takes them for what it wrote."""
    path = tmp_path / "ledger"
    path.mkdir()
    with closing(sqlite3.connect(path / "cache.db")) as database:
        database.execute("CREATE TABLE Settings (key TEXT, value)")
        database.execute("INSERT INTO Settings VALUES (NULL, 1)")
        database.commit()
    async with DiskLedger.open(path) as ledger:
        await ledger.keep_tag(APP, LATEST, FACT)
        assert await ledger.tag(APP, LATEST) == FACT
    assert (tmp_path / "ledger.damaged").exists()


async def test_a_file_in_its_place_is_put_aside(tmp_path: Path) -> None:
    """Whatever put it there."""
    (tmp_path / "ledger").write_text("a file")
    async with DiskLedger.open(tmp_path / "ledger") as ledger:
        await ledger.keep_tag(APP, LATEST, FACT)
        assert await ledger.tag(APP, LATEST) == FACT
    assert (tmp_path / "ledger.damaged").read_text() == "a file"


async def test_a_place_that_can_not_be_is_refused(tmp_path: Path) -> None:
    """With its path: there is nothing to put aside."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match="ledger"):
        async with DiskLedger.open(tmp_path / "file" / "ledger"):
            raise AssertionError("opened")


# What others wrote


class Code:
    """Whose unpickling leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.trace,)


def key(text: str) -> bytes:
    return zlib.compress(json.dumps(text).encode(), 1)


NAMES = (f"tag {APP}:{LATEST}", f"manifest {DIGESTS[0]}", f"holdings {APP}", "uses 00")


@asynccontextmanager
async def with_rows(path: Path, value: object) -> AsyncIterator[DiskLedger]:
    """A ledger in which each row is one that diskcache itself wrote."""
    async with DiskLedger.open(path):
        pass
    with diskcache.Cache(str(path), disk=diskcache.Disk) as cache:
        for name in NAMES:
            cache.set(key(name), value)
    async with DiskLedger.open(path) as ledger:
        yield ledger


async def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    """Or whoever can write to the cache directory could run code; it counts as unknown, and can be overwritten."""
    trace = tmp_path / "trace"
    async with with_rows(tmp_path / "ledger", Code(trace)) as ledger:
        await check_no_lie(ledger)
        await ledger.keep_tag(APP, LATEST, FACT)
        assert await ledger.tag(APP, LATEST) == FACT
        await ledger.keep_uses(USES)
        assert await ledger.uses() == USES
    assert not trace.exists()
    with diskcache.Cache(str(tmp_path / "other"), disk=diskcache.Disk) as cache:
        cache.set("code", Code(trace))
        cache.get("code")
    assert trace.exists(), "the pickle would have left a trace"


ODD = [7, 2**70, 1.5, "text", b"bytes", b"", zlib.compress(b"{"), zlib.compress(b"\xff"), zlib.compress(b"[" * 10**5)]


@pytest.mark.parametrize("value", [*ODD, None], ids=lambda value: repr(value)[:12])
async def test_a_row_of_another_kind_is_unknown(tmp_path: Path, value: object) -> None:
    """Not what the mirror writes: a number, a text, bytes that are no JSON, or too deep."""
    async with with_rows(tmp_path / "ledger", value) as ledger:
        await check_no_lie(ledger)


json_leaves = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), st.text(max_size=5), digests.map(str))
)
json_values = st.recursive(
    json_leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(digests.map(str) | st.just(""), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=50)
@given(json_values | st.tuples(digests.map(str), json_leaves) | st.dictionaries(digests.map(str), json_leaves))
@example([str(DIGESTS[0]), 10**400])
@example([str(DIGESTS[0]), float("inf")])
@example({str(DIGESTS[0]): 10**400})
@example({str(DIGESTS[0]): float("nan")})
def test_any_json_in_a_row_is_a_fact_or_unknown(value: object) -> None:
    """Each fact is what it claims to be: a digest, a time, a media type."""

    async def scene(path: Path) -> None:
        async with with_rows(path, zlib.compress(json.dumps(value).encode(), 1)) as ledger:
            fact = await ledger.tag(APP, LATEST)
            assert fact is None or (type(fact.digest) is Digest and math.isfinite(fact.checked))
            manifest = await ledger.manifest(DIGESTS[0])
            assert manifest is None or type(manifest.media_type) is str
            assert manifest is None or all(type(one) is Digest for one in manifest.references)
            assert all(type(one) is Digest for one in await ledger.holdings(APP))
            assert all(type(one) is Digest and math.isfinite(used) for one, used in (await ledger.uses()).items())

    with directory() as root, new_loop() as loop:
        loop.run(scene(root / "ledger"))


# What can't be written


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Nothing more can be written to it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    yield
    filler.unlink()


@pytest.mark.needs("mount", root=True)
async def test_what_can_not_be_written_is_known_and_written_later(tmp_path: Path) -> None:
    """Kept and dropped: as if it were written, and there after a restart, if there was room before it."""
    with small_disk(tmp_path / "disk", 2**22) as disk:
        async with DiskLedger.open(disk / "ledger") as ledger:
            await ledger.keep_tag(APP, EDGE, FACT)
            with full(disk):
                for number in range(10):  # what is free in the database is taken
                    await ledger.keep_manifest(
                        Digest.of(bytes([9, number])), ManifestFact(os.urandom(50_000).hex(), ())
                    )
                await ledger.keep_tag(APP, LATEST, FACT)
                await ledger.drop_tag(APP, EDGE)
                await ledger.keep_manifest(DIGESTS[0], ManifestFact("a/b", (DIGESTS[1],)))
                assert await ledger.tag(APP, LATEST) == FACT
                assert await ledger.tag(APP, EDGE) is None
                assert (await ledger.manifests(DIGESTS))[DIGESTS[0]].references == (DIGESTS[1],)
            await ledger.mend()
        async with DiskLedger.open(disk / "ledger") as ledger:
            assert await ledger.tag(APP, LATEST) == FACT
            assert await ledger.tag(APP, EDGE) is None
            assert (await ledger.manifests(DIGESTS))[DIGESTS[0]].references == (DIGESTS[1],)


@pytest.mark.parametrize("how", ["deleted", "replaced", "damaged"])
async def test_a_ledger_that_is_lost_while_it_is_open_is_begun_anew(tmp_path: Path, how: str) -> None:
    """What is kept from then on is there after a restart, and it is known that the rest is not."""
    path = tmp_path / "ledger"
    async with DiskLedger.open(path) as ledger:
        await ledger.keep_whole()
        assert await ledger.is_whole()
        if how == "damaged":
            for file in path.iterdir():
                file.write_bytes(b"\xff" * file.stat().st_size)
            await ledger.keep_tag(APP, EDGE, FACT)
        else:
            shutil.rmtree(path)
            if how == "replaced":
                path.write_text("a file")
        await ledger.mend()
        assert not await ledger.is_whole()
        await ledger.keep_tag(APP, LATEST, FACT)
    async with DiskLedger.open(path) as ledger:
        assert await ledger.tag(APP, LATEST) == FACT


@pytest.mark.needs("mount", root=True)
async def test_a_full_disk_is_no_damage_of_the_ledger(filled: Path, tmp_path: Path) -> None:
    """Where it can't be opened for want of room it is not put aside."""
    with small_disk(tmp_path / "disk", 2**22) as disk:
        shutil.copytree(filled, disk / "ledger")
        with full(disk), suppress(StorageFailed):
            async with DiskLedger.open(disk / "ledger"):
                pass
        assert not (disk / "ledger.damaged").exists()
        async with DiskLedger.open(disk / "ledger") as ledger:
            assert await ledger.tag(APP, LATEST) == FACT
