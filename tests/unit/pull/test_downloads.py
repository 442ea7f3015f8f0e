"""Downloads: one source for all who follow, right bytes or an error, and nothing left behind."""

import asyncio
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from mirror.config import CacheSettings
from mirror.errors import BlobUnknown, NoSpace, UpstreamDisconnected, UpstreamUnavailable
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.oci.ranges import Span
from mirror.origin import PullContext
from mirror.pull.downloads import Downloads
from mirror.storage.disk import DiskStore
from mirror.storage.fact_store import DiskFacts
from tests.unit.contents import Content, layer
from tests.unit.followers import Follower
from tests.unit.loops import Loop
from tests.unit.sources import Connection, Manner, Source
from tests.unit.storage.test_disk import open_files

WITHHELD = 64 * 2**10  # bytes that may wait for the verification
TRIES = 5  # in a row that bring nothing, until a download gives up
BLOBS = [layer("empty", 0), layer("small", 70_000), layer("large", 300_000, "sha512")]
ALL = sum(len(content.body) for content in BLOBS)

picks = st.integers(0, 5)
contents = st.sampled_from(BLOBS)
manners = st.sampled_from(
    [
        *(Manner(), Manner(), Manner(), Manner(), Manner(heeds=False), Manner(heeds=False), Manner(announces=None)),
        *(Manner(announces=None), Manner(heeds=False, announces=None), Manner(announces=-40_000), Manner(announces=1)),
        *(Manner(refusal=UpstreamUnavailable("refused")), Manner(refusal=BlobUnknown("gone"))),
    ]
)
mostly = st.sampled_from([True, True, True, True, True, False])


@dataclass(eq=False)
class Way:
    """One download, from its first follower to its end, and what may be expected of it."""

    source: Source
    told: int | None  # bytes, by a manifest
    before: int  # connections of the source
    best: int  # bytes that came, from the first on
    is_lost: bool = False  # something happened after which it may fail
    is_wrong: bool = False  # wrong bytes came
    breaks: int = 0
    fruitless: int = 0

    @property
    def connections(self) -> list[Connection]:
        return self.source.connections[self.before :]

    def broken(self, at: int) -> None:
        """A connection broke when it was there."""
        self.breaks += 1
        self.fruitless = 0 if at > self.best else self.fruitless + 1
        self.best = max(self.best, at)
        self.is_lost |= self.fruitless >= TRIES or self.source.manner.refusal is not None

    def judge(self) -> None:
        """A download may fail over an upstream that lies or refuses."""
        sizes = {None, len(self.source.content.body)}
        self.is_lost |= any(one.is_refused or one.size not in sizes for one in self.connections)


class Sources:
    """All sources as one origin."""

    name = "sources"

    def __init__(self, sources: Mapping[Content, Source]) -> None:
        self._by_digest = {content.digest: source for content, source in sources.items()}

    def open(self, context: PullContext, digest: Digest, span: Span | None) -> AbstractAsyncContextManager[Connection]:
        return self._by_digest[digest].open(context, digest, span)


class DownloadsMachine(RuleBasedStateMachine):
    """Sources that do what they like, followers that come and go. After each step everything happens that can."""

    followers = Bundle("followers")

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="downloads-"))
        self.loop = Loop()
        self.exits = AsyncExitStack()
        self.sources = {content: Source(content) for content in BLOBS}
        self.ways: dict[Digest, Way] = {}  # of running downloads
        self.poisoned: set[Digest] = set()  # what is kept of them may be wrong
        self.everybody: dict[Follower, Way] = {}

    @initialize(limit=st.sampled_from([2**20, 2**20, 2**20, 2**20, 250_000]))
    def begin(self, limit: int) -> None:
        self.limit = limit
        self.loop.run(self._open())

    async def _open(self) -> None:
        cache = CacheSettings(path=self.root, max_size=self.limit, min_free=0)
        facts = await self.exits.enter_async_context(DiskFacts.open(self.root / "ledger"))
        self.store = await self.exits.enter_async_context(DiskStore.at(cache, facts, Metrics()))
        self.downloads = Downloads(self.store, lambda _: [Sources(self.sources)], Metrics())

    def teardown(self) -> None:
        try:
            if hasattr(self, "downloads"):
                self.close()
            for follower in self.everybody:
                follower.sip(1000)
            self.loop.settle()
            self.loop.run(self.exits.aclose())
            assert not asyncio.all_tasks(self.loop)
            assert not [name for name in open_files() if name.startswith(str(self.root))]
        finally:
            self.loop.close()
            shutil.rmtree(self.root)
        for follower, way in self.everybody.items():
            self._check(follower, way)

    def settle(self) -> None:
        """All that happens by itself; then it is known which downloads have ended."""
        self.loop.settle()
        for digest, way in list(self.ways.items()):
            way.judge()
            if digest not in self.downloads:
                del self.ways[digest]
                self.poisoned = self.poisoned | {digest} if way.is_wrong else self.poisoned - {digest}

    # Those who follow

    @rule(target=followers, content=contents, manner=manners, told=st.booleans(), is_slow=st.booleans())
    def follow(self, content: Content, manner: Manner, told: bool, is_slow: bool) -> Follower:
        """Joins the download, or begins it where one broke off."""
        source, digest = self.sources[content], content.digest
        size = len(content.body) if told else None
        if digest not in self.ways:
            source.manner = manner
            kept = self._kept(digest)
            is_wrong = kept > 0 and digest in self.poisoned  # and stays so over as many breaks as there are
            is_lost = is_wrong or self.limit < 2 * ALL
            self.ways[digest] = Way(source, size, len(source.connections), kept, is_lost, is_wrong)
        way = self.ways[digest]
        follower = Follower(self.loop, self.downloads, source, told=size, is_slow=is_slow)
        self.everybody[follower] = way
        self.settle()
        assert source.connections, "nobody was asked"
        return follower

    @rule(follower=followers, times=st.integers(1, 20))
    def sip(self, follower: Follower, times: int) -> None:
        follower.sip(times)
        self.settle()

    @rule(follower=consumes(followers))
    def leave(self, follower: Follower) -> None:
        """Changes nothing: not for the download, not for anybody else."""
        running = set(self.ways)
        follower.task.cancel()
        self.settle()
        assert set(self.ways) == running

    # What sources do

    def _open_connection(self, pick: int) -> tuple[Way, Connection]:
        """One of those of running downloads."""
        found = [(way, connection) for way in self.ways.values() if (connection := way.source.connection) is not None]
        return found[pick % len(found)]

    @precondition(lambda self: self.ways)
    @rule(pick=picks, size=st.sampled_from([1, 1000, 30_000, 70_000, 100_000, 300_000]), right=mostly)
    def send(self, pick: int, size: int, right: bool) -> None:
        """The next bytes, as far as there are any; or others than there should be, or more."""
        way, connection = self._open_connection(pick)
        piece = way.source.content.body[connection.at : connection.at + size] if right else b"\0" * size
        is_new = connection.at + size > way.best  # or it has these already, and right
        way.is_lost |= not right and is_new
        way.is_wrong |= not right and is_new
        connection.send(piece)
        self.settle()

    @precondition(lambda self: self.ways)
    @rule(pick=picks, how=st.sampled_from(["all", "all", "cut", "early"]), manner=manners)
    def end(self, pick: int, how: str, manner: Manner) -> None:
        """After all of it; or too early: then it goes on where it was, in another manner perhaps."""
        way, connection = self._open_connection(pick)
        body = way.source.content.body
        way.source.manner = manner
        if how == "all" and connection.at < len(body):
            connection.send(body[connection.at :])
        if how == "cut" or (connection.at < len(body) and (connection.size, way.told) != (None, None)):
            self._break(way, connection, UpstreamDisconnected("cut") if how == "cut" else None)
            return
        way.is_lost |= connection.at < len(body)  # nobody knows that this is not all
        connection.end()
        self.settle()
        assert way.is_lost or way.source.content.digest in self.store, "it all came, and is not there"

    def _break(self, way: Way, connection: Connection, error: UpstreamDisconnected | None) -> None:
        way.broken(connection.at)
        connection.end(error)
        self.settle()
        digest = way.source.content.digest
        assert way.is_lost or digest in self.downloads or digest in self.store, "a cut ended it"
        again = way.connections[-1]
        if again is not connection and not way.is_lost:
            at = way.best - (0 < way.best == len(way.source.content.body))  # of what is whole the last byte comes again
            assert again.span == (Span(at, at) if at else None), "it went on at another place"

    # The end of the mirror

    @rule()
    def close(self) -> None:
        """Nothing runs on; what has come is kept for the next time."""
        for way in self.ways.values():
            way.is_lost = True
        self.loop.run(self.downloads.__aexit__(None, None, None))
        waiting = {follower.task for follower in self.everybody if not follower.task.done()}
        assert asyncio.all_tasks(self.loop) <= waiting
        self.settle()
        assert not self.ways
        self.downloads = Downloads(self.store, lambda _: [Sources(self.sources)], Metrics())

    # What always holds

    @invariant()
    def laws(self) -> None:
        self._nobody_takes_wrong_bytes_for_the_blob()
        self._who_is_quick_has_what_came()
        self._a_source_is_asked_once_unless_it_breaks()
        self._what_is_stored_is_right()
        self._nothing_is_open_that_nobody_needs()

    def _nobody_takes_wrong_bytes_for_the_blob(self) -> None:
        for follower, way in self.everybody.items():
            self._check(follower, way)

    def _check(self, follower: Follower, way: Way) -> None:
        body = way.source.content.body
        if follower.task.done() and not follower.task.cancelled():
            follower.task.result()
            assert follower.is_whole or follower.failure is not None
        if follower.is_whole:
            assert follower.got == body, "wrong bytes for a whole blob"
        if not way.is_lost:
            assert body.startswith(follower.got)
            assert follower.promised in {None, len(body)}
            assert follower.failure is None, follower.failure
        assert not isinstance(follower.failure, NoSpace) or self.limit < 2 * ALL

    def _who_is_quick_has_what_came(self) -> None:
        """But for the end, which waits for the verification."""
        for follower, way in self.everybody.items():
            connection = way.source.connection
            if follower.is_slow or follower.task.done() or way.is_lost or connection is None:
                continue
            if (connection.size, way.told) != (None, None):
                came = max(way.best, connection.at)
                assert len(follower.got) >= min(came, len(way.source.content.body) - WITHHELD)

    def _a_source_is_asked_once_unless_it_breaks(self) -> None:
        for source in self.sources.values():
            assert not source.was_asked_twice
        for way in self.ways.values():
            assert way.is_lost or len(way.connections) <= 1 + way.breaks

    def _what_is_stored_is_right(self) -> None:
        for content in BLOBS:
            file = self.root / "blobs" / content.digest.algorithm / content.digest.hex
            assert file.exists() == (content.digest in self.store)
            assert not file.exists() or file.read_bytes() == content.body
        files = [*(self.root / "blobs").rglob("*"), *(self.root / "ingest").iterdir()]
        assert sum(path.stat().st_size for path in files if path.is_file()) <= self.store.occupied <= self.limit

    def _nothing_is_open_that_nobody_needs(self) -> None:
        running = [task for task in asyncio.all_tasks(self.loop) if task.get_name().startswith("download ")]
        assert len(running) == len(self.ways)
        if not self.ways and all(follower.task.done() for follower in self.everybody):
            places = (str(self.root / "blobs"), str(self.root / "ingest"))
            assert not [name for name in open_files() if name.startswith(places)]

    def _kept(self, digest: Digest) -> int:
        file = self.root / "ingest" / f"{digest.algorithm}-{digest.hex}"
        return file.stat().st_size if file.exists() else 0


TestDownloads = DownloadsMachine.TestCase
TestDownloads.settings = settings(max_examples=150, stateful_step_count=40)
