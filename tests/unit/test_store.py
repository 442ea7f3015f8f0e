"""The store on disk, beside a model of what it holds, how full it may be, and what has to go first."""

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
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from mirror.config import CacheSettings
from mirror.errors import NoRoom, UpstreamCorrupt
from mirror.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.storage.disk import DiskStore
from mirror.storage.ledger import DiskLedger
from tests.unit.contents import Content
from tests.unit.expected import WORLD, Arrival, Expected, Reader, Room, Use, weight
from tests.unit.loops import Loop

NEVER = Digest.of(b"what never comes")
contents = st.sampled_from(sorted(WORLD.values(), key=lambda one: one.name))
limits = st.integers(300, 1200)
mostly = st.sampled_from([True, True, True, False])


class StoreMachine(RuleBasedStateMachine):
    """All that can happen to a store, one after the other."""

    readers = Bundle("readers")
    arrivals = Bundle("arrivals")

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="store-"))
        self.directory = self.root / "0"
        self.loop = Loop()
        self.expected = Expected(0)
        self.exits = AsyncExitStack()
        self.open_readers: set[Reader] = set()

    @initialize(limit=limits)
    def begin(self, limit: int) -> None:
        """The ledger knows all manifests from the beginning."""
        self.expected.limit = limit
        self.loop.run(self._open())
        for digest, content in WORLD.items():
            if content.fact is not None:
                self.loop.run(self.ledger.keep_manifest(digest, content.fact))

    async def _open(self) -> None:
        self.exits = AsyncExitStack()
        self.directory.mkdir(exist_ok=True)
        cache = CacheSettings(path=self.directory, max_size=self.expected.limit, min_free=0)
        self.ledger = await self.exits.enter_async_context(DiskLedger.open(self.directory / "ledger"))
        self.store = await self.exits.enter_async_context(DiskStore.at(cache, self.ledger, Metrics()))

    def teardown(self) -> None:
        self._leave_all()
        self.loop.run(self.exits.aclose())
        assert not asyncio.all_tasks(self.loop)
        assert not [name for name in open_files() if name.startswith(str(self.root))]
        self.loop.close()
        shutil.rmtree(self.root)

    def _leave_all(self) -> None:
        for reader in list(self.open_readers):
            self._leave(reader)
        for arrival in list(self.expected.arriving):
            self._break_off(arrival)

    @contextmanager
    def step(self, *, needs: int = 0) -> Iterator[None]:
        """One step, that needs so much room. What it evicts and drops for it is judged, and then expected."""
        wait_for_another_millisecond()
        self.expected.step += 1
        room = Room.before(self.expected, needs)
        try:
            yield
        except NoRoom:
            assert not room.possible, "there was room, or it could be made"
        else:
            assert room.possible or not needs, "there was no room"
        dropped = [digest for digest in self.expected.kept if not self._kept_file(digest).exists()]
        room.check_dropped([len(self.expected.kept.pop(digest)) for digest in dropped])
        gone = {digest for digest in self.expected.used if digest not in self.store}
        room.check_evicted(gone)
        for digest in gone:
            self.expected.strike(digest)

    # Content comes

    @rule(content=contents)
    def put(self, content: Content) -> None:
        """Small content, verified by whoever has it; what is stored already stays as it is."""
        stored = content.digest in self.expected.used
        with self.step(needs=0 if stored else len(content.body)):
            self.loop.run(self.store.put(content.digest, content.body))
            if not stored:
                self.expected.store(content)

    @rule(target=arrivals, content=contents)
    def ingest(self, content: Content) -> Arrival:
        """With what an earlier one left. There is one for each digest."""
        for arrival in self.expected.arriving:
            if arrival.content is content:
                return arrival
        exits = AsyncExitStack()
        with self.step():
            ingest = self.loop.run(exits.enter_async_context(self.store.ingest(content.digest)))
            left = self.expected.kept.pop(content.digest, b"")
            arrival = Arrival(content, exits, ingest, left, len(left))
            self.expected.arriving.add(arrival)
        assert ingest.written == len(left)
        return arrival

    @rule(arrival=arrivals)
    def reserve(self, arrival: Arrival) -> None:
        """Room for all of it, before it comes."""
        needs = max(0, len(arrival.content.body) - arrival.reserved)
        if not arrival.ended:
            with self.step(needs=needs):
                self.loop.run(arrival.ingest.reserve(len(arrival.content.body)))
                arrival.reserved += needs

    @rule(arrival=arrivals, size=st.sampled_from([1, 50, 150, 1000, 1000]), right=mostly)
    def append(self, arrival: Arrival, size: int, right: bool) -> None:
        """The next bytes, or others in their place; room is made for what nobody announced."""
        at = len(arrival.written)
        coming = arrival.content.body[at : at + size] if right else b"\0" * min(size, 50)
        if arrival.ended or not coming:
            return
        needs = max(0, at + len(coming) - arrival.reserved)
        with self.step(needs=needs):
            self.loop.run(arrival.ingest.append(memoryview(coming)))
            arrival.reserved += needs
            arrival.written += coming
        assert arrival.ingest.written == len(arrival.written)

    @rule(content=contents, used=st.lists(contents, max_size=2))
    def arrive(self, content: Content, used: list[Content]) -> None:
        """All of it, one after the other, while other content is used."""
        arrival = self.ingest(content)
        self.reserve(arrival)
        for one in used:
            self.use(one)
        self.append(arrival, len(content.body), right=True)
        self.finish(arrival, announced=True)

    @rule(arrival=arrivals)
    def restart(self, arrival: Arrival) -> None:
        """The next piece is the first; the room stays."""
        if not arrival.ended:
            arrival.ingest.restart()
            arrival.written = b""

    @rule(arrival=consumes(arrivals), announced=st.booleans())
    def finish(self, arrival: Arrival, announced: bool) -> None:
        """The whole and right content becomes a blob; other content is void."""
        if arrival.ended:
            return
        size = len(arrival.content.body) if announced else None
        if arrival.written != arrival.content.body:
            with pytest.raises(UpstreamCorrupt):
                arrival.ingest.verify(size)
            arrival.ingest.restart()
            arrival.written = b""
            self._break_off(arrival)
            return
        arrival.ingest.verify(size)
        with self.step():
            self.loop.run(arrival.ingest.commit())
            self.loop.run(arrival.exits.aclose())
            self._ended(arrival)
            self.expected.store(arrival.content)

    @rule(arrival=consumes(arrivals))
    def break_off(self, arrival: Arrival) -> None:
        """What has come is kept, the room for the rest is given back."""
        if not arrival.ended:
            self._break_off(arrival)

    def _break_off(self, arrival: Arrival) -> None:
        with self.step():
            self.loop.run(arrival.exits.aclose())
            self._ended(arrival)
            if arrival.written:
                self.expected.kept[arrival.content.digest] = arrival.written

    def _ended(self, arrival: Arrival) -> None:
        arrival.ended = True
        self.expected.arriving.discard(arrival)

    @rule(seconds=st.sampled_from([-60, 60]))
    def forget_ingests(self, seconds: int) -> None:
        """What nobody came back for in so long."""
        with self.step():
            self.loop.run(self.store.forget_ingests(older_than=seconds))
            if seconds < 0:
                self.expected.kept.clear()

    # Content is used

    @rule(content=contents)
    def use(self, content: Content) -> None:
        """A manifest's use is a use of what it references, through two levels."""
        with self.step():
            self.store.use(content.digest)
            self.expected.use(content)

    @rule(target=readers, content=contents, opened=mostly)
    def hold(self, content: Content, opened: bool) -> Reader:
        """Stored or not. To open it is a use; what somebody removed is found to be gone."""
        reader = Reader(content, AsyncExitStack())
        digest = content.digest
        with self.step():
            if opened:
                reader.blob = self.loop.run(reader.exits.enter_async_context(self.store.open(digest)))
                self.expected.miss(digest)
                if reader.blob is not None:
                    self.expected.use(content)
            else:
                self.loop.run(reader.exits.enter_async_context(self.store.hold(digest)))
        assert not opened or (reader.blob is not None) == (digest in self.expected.used)
        self.expected.held[digest] += 1
        self.open_readers.add(reader)
        return reader

    @rule(reader=readers)
    def read_on(self, reader: Reader) -> None:
        """An open descriptor reads on, whatever happens to the name."""
        if reader.blob is not None and reader in self.open_readers:
            assert os.pread(reader.blob.fileno(), reader.blob.size + 1, 0) == reader.content.body
            assert self.loop.run(reader.blob.reach(0)) == len(reader.content.body)

    @rule(reader=consumes(readers))
    def leave(self, reader: Reader) -> None:
        if reader in self.open_readers:
            self._leave(reader)

    def _leave(self, reader: Reader) -> None:
        self.open_readers.discard(reader)
        with self.step():
            self.loop.run(reader.exits.aclose())
        self.expected.held[reader.content.digest] -= 1

    @rule(content=contents)
    def read(self, content: Content) -> None:
        """All of it at once."""
        with self.step():
            body = self.loop.run(self.store.read(content.digest))
            self.expected.miss(content.digest)
            if body is not None:
                self.expected.use(content)
        assert body == (content.body if content.digest in self.expected.used else None)

    @rule(size=st.integers(0, 2000))
    def ask_for_room(self, size: int) -> None:
        """Room is promised if there is any, or can be made; nothing goes for a promise."""
        with self.step():
            promised = self.loop.run(self.store.has_room(size))
        assert promised == self.expected.can_have(size)

    @rule(share=st.integers(1, 110))
    def reserve_and_leave(self, share: int) -> None:
        """That share of all that can go has to go, for a download that then brings nothing."""
        can_go = self.expected.left + sum(map(weight, self.expected.evictable))
        needs = self.expected.limit - self.expected.occupied + can_go * share // 100

        async def reserve() -> None:
            async with self.store.ingest(NEVER) as ingest:
                await ingest.reserve(needs)

        with self.step(needs=needs):
            self.loop.run(reserve())

    # The store comes and goes

    @rule(content=contents)
    def vanish(self, content: Content) -> None:
        """Somebody removes a file behind the store's back."""
        self.upkeep()
        if content.digest in self.expected.used and content.digest not in self.expected.vanished:
            self._blob_file(content.digest).unlink()
            self.expected.vanished.add(content.digest)

    @rule()
    def upkeep(self) -> None:
        """What the clock does now and then changes nothing that can be seen."""
        with self.step():
            self.loop.run(self.store.flush())
            self.loop.run(self.store.make_room(0))

    @rule(limit=st.none() | limits)
    def reopen(self, limit: int | None) -> None:
        """Everything is there again, in its order; a smaller limit holds from the start."""
        self._leave_all()
        self.loop.run(self.exits.aclose())
        self.expected.limit = limit or self.expected.limit
        self._opened_anew()

    @rule()
    def crash(self) -> None:
        """What was stored and what had come is there again; of last uses it may be that nobody knows."""
        crashed = Path(tempfile.mkdtemp(dir=self.root)) / "copy"
        shutil.copytree(self.directory, crashed)
        self._leave_all()
        self.loop.run(self.exits.aclose())
        shutil.rmtree(self.directory)
        self.directory = crashed
        self.expected.used = dict.fromkeys(self.expected.used, Use(self.expected.step, self.expected.step))
        self._opened_anew()

    def _opened_anew(self) -> None:
        for digest in list(self.expected.vanished):
            self.expected.strike(digest)
        with self.step():
            self.loop.run(self._open())

    # What always holds

    @invariant()
    def laws(self) -> None:
        self._occupied_is_the_sum()
        self._no_more_is_on_disk_than_may_be()
        self._what_is_stored_is_visible_and_right()
        self._what_is_arriving_is_apart()

    def _occupied_is_the_sum(self) -> None:
        assert self.store.occupied == self.expected.occupied
        assert len(self.store) == len(self.expected.used)

    def _no_more_is_on_disk_than_may_be(self) -> None:
        files = [*(self.directory / "blobs").rglob("*"), *(self.directory / "ingest").iterdir()]
        on_disk = sum(path.stat().st_size for path in files if path.is_file())
        assert on_disk <= self.store.occupied <= self.expected.limit

    def _what_is_stored_is_visible_and_right(self) -> None:
        for digest, content in WORLD.items():
            stored, file = digest in self.expected.used, self._blob_file(digest)
            assert (digest in self.store) == stored
            assert self.store.size(digest) == (len(content.body) if stored else None)
            assert file.exists() == (stored and digest not in self.expected.vanished)
            assert not file.exists() or file.read_bytes() == content.body

    def _what_is_arriving_is_apart(self) -> None:
        written = {one.content.digest: one.written for one in self.expected.arriving} | self.expected.kept
        found = {path: path.read_bytes() for path in (self.directory / "ingest").iterdir()}
        assert found == {self._kept_file(digest): content for digest, content in written.items()}

    def _blob_file(self, digest: Digest) -> Path:
        return self.directory / "blobs" / digest.algorithm / digest.hex

    def _kept_file(self, digest: Digest) -> Path:
        return self.directory / "ingest" / f"{digest.algorithm}-{digest.hex}"


def wait_for_another_millisecond() -> None:
    """Last uses are written down in milliseconds: another step uses in another of them."""
    now = round(time.time(), 3)
    while round(time.time(), 3) == now:
        pass


def open_files() -> Iterator[str]:
    """What this process has open."""
    for number in os.listdir("/proc/self/fd"):
        try:
            yield os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue  # the directory that was being listed


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=40)
