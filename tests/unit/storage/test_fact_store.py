"""The fact store: facts that survive a restart, and damage that is never worse than a missing fact."""

import shutil
import sqlite3
import tempfile
from contextlib import closing, nullcontext
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from mirror.oci.digest import Digest
from mirror.oci.image_names import Image
from mirror.oci.names import Repository, Tag
from mirror.storage.fact_store import DiskFacts
from mirror.storage.facts import HeldFact, ManifestFact, TagFact
from tests.unit.loops import Loop
from tests.unit.storage.kept_facts import (
    APP,
    BLOBS,
    DIGESTS,
    EDGE,
    FACT,
    HELD,
    IMAGES,
    LATEST,
    MANIFEST,
    TOOL,
    FailingDeletions,
    blobs_of,
    fill,
)

repositories = st.sampled_from([APP, TOOL])
tags = st.sampled_from([LATEST, EDGE])
few = st.sampled_from(DIGESTS)
times = st.floats(0, 2**40).map(lambda time: round(time, 3))
tag_facts = st.builds(TagFact, few, times)
media_types = st.sampled_from(["application/json", "a/b"])
manifest_facts = st.builds(ManifestFact, media_types, st.lists(few, max_size=3).map(tuple))
held_facts = st.builds(
    HeldFact, st.none() | media_types, st.sampled_from(["pulled", "confirmed", "imported", "restored"]), times
)


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
        self.loop.run(self.facts.drop_held(repository, [digest]))
        self.held[repository].pop(digest, None)

    @rule(image=st.sampled_from(IMAGES), pinned=st.booleans())
    def pin(self, image: Image, pinned: bool) -> None:
        self.loop.run((self.facts.keep_pin if pinned else self.facts.drop_pin)(image))
        (self.pins.add if pinned else self.pins.discard)(image)

    @rule(rows=st.dictionaries(few, st.tuples(st.integers(0, 2**63 - 1), times)))
    def keep_blobs(self, rows: dict[Digest, tuple[int, float]]) -> None:
        assert self.loop.run(self.facts.keep_blobs([(str(digest), *row) for digest, row in rows.items()]))
        self.blobs |= rows

    @rule(gone=st.sets(few), kept=few, fact=held_facts, fails=st.booleans())
    def forget_content(self, gone: set[Digest], kept: Digest, fact: HeldFact, fails: bool) -> None:
        """The deletion runs later, or is repeated, and spares the facts that were kept after the call."""

        async def scene() -> None:
            with FailingDeletions(self.facts) if fails else nullcontext():
                self.facts.forget_content(gone)
                await self.facts.all_tags()  # the fact thread has tried
            await self.facts.keep_held(APP, kept, fact)
            await self.facts.mend()

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


async def test_recording_one_more_digest_writes_one_row(tmp_path: Path) -> None:
    """The size of the write-ahead log does not depend on the number of the repository's digests."""
    path = tmp_path / "ledger"
    async with DiskFacts.open(path) as facts:
        for number in range(300):
            await facts.keep_held(APP, Digest.of(b"%d" % number), HELD[DIGESTS[0]])
        with closing(sqlite3.connect(path / "cache.db")) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        await facts.keep_held(APP, DIGESTS[1], HELD[DIGESTS[1]])
        assert (path / "cache.db-wal").stat().st_size < 40 * 4096
        assert len(await facts.held(APP)) == 301


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
