"""The blob store, compared with a model of its content, its limit, and the order of eviction."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mirror.config import CacheSettings
from mirror.errors import IntegrityError, NoSpace
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.storage.disk import DiskStore
from mirror.storage.fact_store import DiskFacts
from tests.unit.contents import Content
from tests.unit.expected import WORLD, Arrival, Expected, Reader, Space, Use, weight
from tests.unit.loops import Loop

NEVER = Digest.of(b"never stored")
contents = st.sampled_from(sorted(WORLD.values(), key=lambda one: one.name))
limits = st.integers(300, 1200) | st.just(900)
picks = st.integers(0, 20)
sizes = st.sampled_from([1, 50, 150, 1000])
ends = st.sampled_from(["whole", "whole", "as it is", "broken off", "restart"])
mostly = st.sampled_from([True, True, True, False])


class StoreMachine(RuleBasedStateMachine):
    """All operations of a store, and changes from outside, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="store-"))
        self.directory = self.root / "0"
        self.loop = Loop()
        self.expected = Expected(0)
        self.exits = AsyncExitStack()
        self.readers: list[Reader] = []

    @initialize(limit=limits)
    def begin(self, limit: int) -> None:
        self.expected.limit = limit
        self.loop.run(self._open())

    def _keep_fact(self, content: Content) -> None:
        """Record what a manifest references, before it is stored: an eviction deletes the facts."""
        if content.fact is not None:
            self.loop.run(self.facts.keep_manifest(content.digest, content.fact))

    async def _open(self) -> None:
        self.exits = AsyncExitStack()
        self.directory.mkdir(exist_ok=True)
        cache = CacheSettings(path=self.directory, max_size=self.expected.limit, min_free=0)
        self.facts = await self.exits.enter_async_context(DiskFacts.open(self.directory / "ledger"))
        self.store = await self.exits.enter_async_context(DiskStore.at(cache, self.facts, Metrics()))

    def teardown(self) -> None:
        try:
            self._leave_all()
            self.loop.run(self.exits.aclose())
            assert not asyncio.all_tasks(self.loop)
            assert not [name for name in open_files() if name.startswith(str(self.root))]
        finally:
            self.loop.close()
            shutil.rmtree(self.root)

    def _leave_all(self) -> None:
        for reader in list(self.readers):
            self._leave(reader)
        for arrival in list(self.expected.arriving):
            self._break_off(arrival)

    @contextmanager
    def step(self, *, needs: int = 0, may_evict: bool = True) -> Iterator[None]:
        """One step that needs *needs* bytes of space. Its evictions are checked, and then expected."""
        wait_for_another_millisecond()
        self.expected.step += 1
        room = Space.before(self.expected, needs, may_evict=may_evict)
        try:
            yield
        except NoSpace:
            assert not room.possible, "there was space, or eviction could free it"
        else:
            assert room.possible or not needs, "there was no space"
        dropped = [digest for digest in self.expected.kept if not self._kept_file(digest).exists()]
        room.check_dropped([len(self.expected.kept.pop(digest)) for digest in dropped])
        gone = {digest for digest in self.expected.used if digest not in self.store}
        room.check_evicted(gone)
        for digest in gone:
            self.expected.strike(digest)

    # Storing content

    @rule(content=contents)
    def put(self, content: Content) -> None:
        """Small content that the caller has verified; a blob that is stored already stays as it is."""
        came = stored = content.digest in self.expected.used
        self._keep_fact(content)
        with self.step(needs=0 if stored else len(content.body)):
            self.loop.run(self.store.put(content.digest, content.body))
            came = True
        if came and not stored:  # after the evictions for it: an evicted blob is not used with it
            self.expected.store(content)

    @rule(content=contents, used=st.lists(contents, max_size=2))
    def ingest_whole(self, content: Content, used: list[Content]) -> None:
        """Store the whole content, while other content is used."""
        arrival = self._arrival(content)
        self._reserve(arrival)
        for one in used:
            self.use(one, "used")
        self._append(arrival, content.body[len(arrival.written) :])
        self._finish(arrival, announced=True)

    @rule(content=contents, size=sizes, reserved=st.booleans())
    def open_ingest(self, content: Content, size: int, reserved: bool) -> None:
        """Start from the bytes that an earlier ingest left; reserve space at once, or as bytes are received."""
        arrival = self._arrival(content)
        if reserved:
            self._reserve(arrival)
        self._append(arrival, content.body[len(arrival.written) :][:size])

    @precondition(lambda self: self.expected.arriving)
    @rule(pick=picks, size=sizes, right=mostly)
    def append(self, pick: int, size: int, right: bool) -> None:
        """Continue an ingest with the next bytes, or with wrong ones."""
        arrival = self.expected.arriving[pick % len(self.expected.arriving)]
        self._append(arrival, arrival.content.body[len(arrival.written) :][:size] if right else b"\0" * 50)

    @precondition(lambda self: self.expected.arriving)
    @rule(
        pick=picks,
        how=st.sampled_from(["whole", "whole", "as it is", "broken off", "restart"]),
        announced=st.booleans(),
    )
    def end(self, pick: int, how: str, announced: bool) -> None:
        """Complete and correct content becomes a blob, a part of it is kept, wrong content is void."""
        arrival = self.expected.arriving[pick % len(self.expected.arriving)]
        match how:
            case "broken off":
                self._break_off(arrival)
            case "restart":
                arrival.ingest.restart()
                arrival.written = b""
            case "whole":
                self._append(arrival, arrival.content.body[len(arrival.written) :])
                self._finish(arrival, announced=announced)
            case _:
                self._finish(arrival, announced=announced)

    def _arrival(self, content: Content) -> Arrival:
        """Return the one ingest of this content."""
        for arrival in self.expected.arriving:
            if arrival.content is content:
                return arrival
        exits = AsyncExitStack()
        with self.step():
            ingest = self.loop.run(exits.enter_async_context(self.store.ingest(content.digest)))
            left = self.expected.kept.pop(content.digest, b"")
            arrival = Arrival(content, exits, ingest, left, len(left))
            self.expected.arriving.append(arrival)
        assert ingest.written == len(left)
        return arrival

    def _reserve(self, arrival: Arrival) -> None:
        needs = max(0, len(arrival.content.body) - arrival.reserved)
        arrival.is_sized = True
        with self.step(needs=needs):
            self.loop.run(arrival.ingest.reserve(len(arrival.content.body)))
            arrival.reserved += needs

    def _append(self, arrival: Arrival, coming: bytes) -> None:
        needs = max(0, len(arrival.written) + len(coming) - arrival.reserved)
        # Content of unknown size evicts little, and then takes only free space.
        is_small = arrival.is_sized or arrival.reserved + needs <= self.expected.limit // 4
        with self.step(needs=needs, may_evict=is_small):
            self.loop.run(arrival.ingest.append(memoryview(coming)))
            arrival.reserved += needs
            arrival.written += coming
        assert arrival.ingest.written == len(arrival.written)

    def _finish(self, arrival: Arrival, *, announced: bool) -> None:
        size = len(arrival.content.body) if announced else None
        if arrival.written != arrival.content.body:
            with pytest.raises(IntegrityError):
                arrival.ingest.verify(size)
            arrival.ingest.restart()
            arrival.written = b""
            self._break_off(arrival)
            return
        arrival.ingest.verify(size)
        self._keep_fact(arrival.content)
        with self.step():
            self.loop.run(arrival.ingest.commit())
            self.loop.run(arrival.exits.aclose())
            self.expected.arriving.remove(arrival)
            self.expected.store(arrival.content)

    def _break_off(self, arrival: Arrival) -> None:
        with self.step():
            self.loop.run(arrival.exits.aclose())
            self.expected.arriving.remove(arrival)
            if arrival.written:
                self.expected.kept[arrival.content.digest] = arrival.written

    # Content is used

    @rule(content=contents, how=st.sampled_from(["used", "used", "read", "opened", "opened", "held"]))
    def use(self, content: Content, how: str) -> None:
        """Stored or not. A use of a manifest is one of its references; a blob that was removed is found to be gone.

        Reading alone, as listings read all manifests, is no use.
        """
        digest, is_read = content.digest, False
        with self.step():
            match how:
                case "used":
                    self.store.use(digest)
                    is_read = True
                case "read":
                    body = self.loop.run(self.store.read(digest))
                    is_read = body is not None
                    assert body in {None, content.body}
                case _:
                    is_read = self._hold(content, opens=how == "opened")
            if how in {"read", "opened"}:
                self.expected.miss(digest)
                assert is_read == (digest in self.expected.used)
            if is_read and how != "read":
                self.expected.use(content)

    def _hold(self, content: Content, *, opens: bool) -> bool:
        """Return whether the blob could be opened."""
        reader = Reader(content, AsyncExitStack())
        if opens:
            reader.blob = self.loop.run(reader.exits.enter_async_context(self.store.open(content.digest)))
        else:
            self.loop.run(reader.exits.enter_async_context(self.store.hold(content.digest)))
        self.expected.held[content.digest] += 1
        self.readers.append(reader)
        return reader.blob is not None

    @precondition(lambda self: self.readers)
    @rule(pick=picks)
    def leave(self, pick: int) -> None:
        """An open descriptor reads on until then, whatever happens to the name."""
        self._leave(self.readers[pick % len(self.readers)])

    def _leave(self, reader: Reader) -> None:
        if reader.blob is not None:
            assert os.pread(reader.blob.fileno(), reader.blob.size + 1, 0) == reader.content.body
            assert self.loop.run(reader.blob.reach(0)) == len(reader.content.body)
        with self.step():
            self.loop.run(reader.exits.aclose())
        self.readers.remove(reader)
        self.expected.held[reader.content.digest] -= 1

    # Space

    @rule(size=st.integers(0, 2000))
    def ask_for_space(self, size: int) -> None:
        """Space is promised if it is free or can be freed; nothing is evicted for a promise."""
        with self.step():
            promised = self.loop.run(self.store.has_space(size))
        assert promised == self.expected.can_have(size)

    @rule(share=st.integers(1, 110))
    def reserve_and_leave(self, share: int) -> None:
        """That share of all evictable bytes has to be evicted, for a download that then stores nothing."""
        can_go = self.expected.left + sum(map(weight, self.expected.evictable))
        needs = self.expected.limit - self.expected.occupied + can_go * share // 100

        async def reserve() -> None:
            async with self.store.ingest(NEVER) as ingest:
                await ingest.reserve(needs)

        with self.step(needs=needs):
            self.loop.run(reserve())

    # Restarts and changes from outside

    @precondition(lambda self: self.expected.used)
    @rule(pick=picks, is_read=st.booleans())
    def vanish(self, pick: int, is_read: bool) -> None:
        """Another program removes a file."""
        self.restart_or_wait("maintenance", 0)
        digest = list(self.expected.used)[pick % len(self.expected.used)]
        if digest not in self.expected.vanished:
            self._blob_file(digest).unlink()
            self.expected.vanished.add(digest)
        if is_read:
            self.use(WORLD[digest], "read")

    @rule(
        how=st.sampled_from(["maintenance", "maintenance", "a minute", "a day", "a restart", "a crash"]), limit=limits
    )
    def restart_or_wait(self, how: str, limit: int) -> None:
        """Maintenance changes nothing but removes old ingests; a start finds the rest, within its limit."""
        if how in {"a restart", "a crash"}:
            self._reopen(limit, crashed=how == "a crash")
            return
        with self.step():
            self.loop.run(self.store.flush())
            self.loop.run(self.store.reserve(0))
            self.loop.run(self.store.forget_ingests(older_than=-60 if how == "a day" else 60))
            if how == "a day":
                self.expected.kept.clear()

    def _reopen(self, limit: int, *, crashed: bool) -> None:
        copy = Path(tempfile.mkdtemp(dir=self.root)) / "copy"
        if crashed:
            shutil.copytree(self.directory, copy)
        self._leave_all()
        self.loop.run(self.exits.aclose())
        if crashed:  # the last uses may be lost
            shutil.rmtree(self.directory)
            self.directory = copy
            self.expected.used = dict.fromkeys(self.expected.used, Use(self.expected.step, self.expected.step))
        for digest in list(self.expected.vanished):
            self.expected.strike(digest)
        self.expected.limit = limit
        with self.step():
            self.loop.run(self._open())
            self.loop.run(self.store.reserve(0))  # as maintenance does after the start, when pins are held

    # Invariants

    @invariant()
    def store_is_consistent(self) -> None:
        self._occupied_is_the_sum()
        self._disk_usage_stays_within_the_limit()
        self._stored_blobs_are_visible_and_correct()
        self._ingests_are_separate_from_blobs()

    def _occupied_is_the_sum(self) -> None:
        assert self.store.occupied == self.expected.occupied
        assert len(self.store) == len(self.expected.used)

    def _disk_usage_stays_within_the_limit(self) -> None:
        files = [*(self.directory / "blobs").rglob("*"), *(self.directory / "ingest").iterdir()]
        on_disk = sum(path.stat().st_size for path in files if path.is_file())
        assert on_disk <= self.store.occupied <= self.expected.limit

    def _stored_blobs_are_visible_and_correct(self) -> None:
        for digest, content in WORLD.items():
            stored, file = digest in self.expected.used, self._blob_file(digest)
            assert (digest in self.store) == stored
            assert self.store.size(digest) == (len(content.body) if stored else None)
            assert file.exists() == (stored and digest not in self.expected.vanished)
            assert not file.exists() or file.read_bytes() == content.body

    def _ingests_are_separate_from_blobs(self) -> None:
        written = {one.content.digest: one.written for one in self.expected.arriving} | self.expected.kept
        found = {path: path.read_bytes() for path in (self.directory / "ingest").iterdir()}
        assert found == {self._kept_file(digest): content for digest, content in written.items()}

    def _blob_file(self, digest: Digest) -> Path:
        return self.directory / "blobs" / digest.algorithm / digest.hex

    def _kept_file(self, digest: Digest) -> Path:
        return self.directory / "ingest" / f"{digest.algorithm}-{digest.hex}"


def wait_for_another_millisecond() -> None:
    """Last uses are written in milliseconds: each step uses another one."""
    now = round(time.time(), 3)
    while round(time.time(), 3) == now:
        pass


def open_files() -> Iterator[str]:
    """Return the paths that this process has open."""
    for number in os.listdir("/proc/self/fd"):
        try:
            yield os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue  # the directory that was being listed


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=100, stateful_step_count=50)
