"""Downloads: one connection for all readers, correct bytes or an error, and no leaked resource."""

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

WITHHELD = 64 * 2**10  # bytes withheld until the verification
TRIES = 5  # consecutive attempts without a byte until a download fails
BLOBS = [layer("empty", 0), layer("small", 70_000), layer("large", 300_000, "sha512")]
ALL = sum(len(content.body) for content in BLOBS)

picks = st.integers(0, 5)
contents = st.sampled_from(BLOBS)
manners = st.sampled_from(
    [
        *(
            Manner(),
            Manner(),
            Manner(),
            Manner(),
            Manner(honors_range=False),
            Manner(honors_range=False),
            Manner(announces=None),
        ),
        *(
            Manner(announces=None),
            Manner(honors_range=False, announces=None),
            Manner(announces=-40_000),
            Manner(announces=1),
        ),
        *(Manner(refusal=UpstreamUnavailable("refused")), Manner(refusal=BlobUnknown("gone"))),
    ]
)
mostly = st.sampled_from([True, True, True, True, True, False])


@dataclass(eq=False)
class Trace:
    """One download, from its first reader to its end, and the results that are allowed."""

    source: Source
    expected_size: int | None  # bytes, according to a manifest
    before: int  # connections of the source
    best: int  # bytes received, from offset 0
    is_lost: bool = False  # whether it may fail
    is_wrong: bool = False  # whether wrong bytes were received
    breaks: int = 0
    fruitless: int = 0

    @property
    def connections(self) -> list[Connection]:
        return self.source.connections[self.before :]

    def broken(self, at: int) -> None:
        """Record a disconnect at this offset."""
        self.breaks += 1
        self.fruitless = 0 if at > self.best else self.fruitless + 1
        self.best = max(self.best, at)
        self.is_lost |= self.fruitless >= TRIES or self.source.manner.refusal is not None

    def judge(self) -> None:
        """Allow a failure if the upstream announced a wrong size or refused."""
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
    """Sources with any behavior, and readers that join and leave. After each step the loop runs until it is idle."""

    followers = Bundle("followers")

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="downloads-"))
        self.loop = Loop()
        self.exits = AsyncExitStack()
        self.sources = {content: Source(content) for content in BLOBS}
        self.traces: dict[Digest, Trace] = {}  # of running downloads
        self.poisoned: set[Digest] = set()  # downloads whose kept bytes may be wrong
        self.readers: dict[Follower, Trace] = {}

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
            for follower in self.readers:
                follower.read_next(1000)
            self.loop.settle()
            self.loop.run(self.exits.aclose())
            assert not asyncio.all_tasks(self.loop)
            assert not [name for name in open_files() if name.startswith(str(self.root))]
        finally:
            self.loop.close()
            shutil.rmtree(self.root)
        for follower, trace in self.readers.items():
            self._check(follower, trace)

    def settle(self) -> None:
        """Run the loop until it is idle, and forget the downloads that ended."""
        self.loop.settle()
        for digest, trace in list(self.traces.items()):
            trace.judge()
            if digest not in self.downloads:
                del self.traces[digest]
                self.poisoned = self.poisoned | {digest} if trace.is_wrong else self.poisoned - {digest}

    # Readers

    @rule(target=followers, content=contents, manner=manners, expected_size=st.booleans(), is_slow=st.booleans())
    def follow(self, content: Content, manner: Manner, expected_size: bool, is_slow: bool) -> Follower:
        """Join the download, or start it at the offset of an interrupted one."""
        source, digest = self.sources[content], content.digest
        size = len(content.body) if expected_size else None
        if digest not in self.traces:
            source.manner = manner
            kept = self._kept(digest)
            is_wrong = kept > 0 and digest in self.poisoned  # and remains wrong over any number of disconnects
            is_lost = is_wrong or self.limit < 2 * ALL
            self.traces[digest] = Trace(source, size, len(source.connections), kept, is_lost, is_wrong)
        trace = self.traces[digest]
        follower = Follower(self.loop, self.downloads, source, expected_size=size, is_slow=is_slow)
        self.readers[follower] = trace
        self.settle()
        assert source.connections, "no connection was opened"
        return follower

    @rule(follower=followers, times=st.integers(1, 20))
    def read_next(self, follower: Follower, times: int) -> None:
        follower.read_next(times)
        self.settle()

    @rule(follower=consumes(followers))
    def leave(self, follower: Follower) -> None:
        """A reader that leaves affects neither the download nor other readers."""
        running = set(self.traces)
        follower.task.cancel()
        self.settle()
        assert set(self.traces) == running

    # Sources

    def _open_connection(self, pick: int) -> tuple[Trace, Connection]:
        """Return an open connection of a running download."""
        found = [
            (trace, connection) for trace in self.traces.values() if (connection := trace.source.connection) is not None
        ]
        return found[pick % len(found)]

    @precondition(lambda self: self.traces)
    @rule(pick=picks, size=st.sampled_from([1, 1000, 30_000, 70_000, 100_000, 300_000]), right=mostly)
    def send(self, pick: int, size: int, right: bool) -> None:
        """Send the next bytes, wrong bytes, or bytes beyond the end."""
        trace, connection = self._open_connection(pick)
        piece = trace.source.content.body[connection.at : connection.at + size] if right else b"\0" * size
        is_new = connection.at + size > trace.best  # otherwise it has the correct bytes already
        trace.is_lost |= not right and is_new
        trace.is_wrong |= not right and is_new
        connection.send(piece)
        self.settle()

    @precondition(lambda self: self.traces)
    @rule(pick=picks, how=st.sampled_from(["all", "all", "cut", "early"]), manner=manners)
    def end(self, pick: int, how: str, manner: Manner) -> None:
        """End the response, after all bytes or early: then the download resumes, perhaps with another manner."""
        trace, connection = self._open_connection(pick)
        body = trace.source.content.body
        trace.source.manner = manner
        if how == "all" and connection.at < len(body):
            connection.send(body[connection.at :])
        if how == "cut" or (connection.at < len(body) and (connection.size, trace.expected_size) != (None, None)):
            self._break(trace, connection, UpstreamDisconnected("cut") if how == "cut" else None)
            return
        trace.is_lost |= connection.at < len(body)  # without a size, the early end looks complete
        connection.end()
        self.settle()
        assert trace.is_lost or trace.source.content.digest in self.store, (
            "all bytes were received, but the blob is not stored"
        )

    def _break(self, trace: Trace, connection: Connection, error: UpstreamDisconnected | None) -> None:
        trace.broken(connection.at)
        connection.end(error)
        self.settle()
        digest = trace.source.content.digest
        assert trace.is_lost or digest in self.downloads or digest in self.store, "a disconnect ended the download"
        again = trace.connections[-1]
        if again is not connection and not trace.is_lost:
            at = trace.best - (
                0 < trace.best == len(trace.source.content.body)
            )  # the last byte of a complete file is requested again
            assert again.span == (Span(at, at) if at else None), "it resumed at another offset"

    # Shutdown of the mirror

    @rule()
    def close(self) -> None:
        """Shut down: no task remains, and received bytes are kept for the next download."""
        for trace in self.traces.values():
            trace.is_lost = True
        self.loop.run(self.downloads.__aexit__(None, None, None))
        waiting = {follower.task for follower in self.readers if not follower.task.done()}
        assert asyncio.all_tasks(self.loop) <= waiting
        self.settle()
        assert not self.traces
        self.downloads = Downloads(self.store, lambda _: [Sources(self.sources)], Metrics())

    # Invariants

    @invariant()
    def downloads_are_consistent(self) -> None:
        self._no_reader_takes_wrong_bytes_for_the_blob()
        self._fast_reader_has_the_received_bytes()
        self._each_disconnect_costs_one_connection()
        self._stored_blobs_are_correct()
        self._no_unneeded_file_or_task_remains()

    def _no_reader_takes_wrong_bytes_for_the_blob(self) -> None:
        for follower, trace in self.readers.items():
            self._check(follower, trace)

    def _check(self, follower: Follower, trace: Trace) -> None:
        body = trace.source.content.body
        if follower.task.done() and not follower.task.cancelled():
            follower.task.result()
            assert follower.is_whole or follower.failure is not None
        if follower.is_whole:
            assert follower.got == body, "wrong bytes for a whole blob"
        if not trace.is_lost:
            assert body.startswith(follower.got)
            assert follower.promised in {None, len(body)}
            assert follower.failure is None, follower.failure
        assert not isinstance(follower.failure, NoSpace) or self.limit < 2 * ALL

    def _fast_reader_has_the_received_bytes(self) -> None:
        """Except the end, which is withheld until the verification."""
        for follower, trace in self.readers.items():
            connection = trace.source.connection
            if follower.is_slow or follower.task.done() or trace.is_lost or connection is None:
                continue
            if (connection.size, trace.expected_size) != (None, None):
                came = max(trace.best, connection.at)
                assert len(follower.got) >= min(came, len(trace.source.content.body) - WITHHELD)

    def _each_disconnect_costs_one_connection(self) -> None:
        for source in self.sources.values():
            assert not source.was_asked_twice
        for trace in self.traces.values():
            assert trace.is_lost or len(trace.connections) <= 1 + trace.breaks

    def _stored_blobs_are_correct(self) -> None:
        for content in BLOBS:
            file = self.root / "blobs" / content.digest.algorithm / content.digest.hex
            assert file.exists() == (content.digest in self.store)
            assert not file.exists() or file.read_bytes() == content.body
        files = [*(self.root / "blobs").rglob("*"), *(self.root / "ingest").iterdir()]
        assert sum(path.stat().st_size for path in files if path.is_file()) <= self.store.occupied <= self.limit

    def _no_unneeded_file_or_task_remains(self) -> None:
        running = [task for task in asyncio.all_tasks(self.loop) if task.get_name().startswith("download ")]
        assert len(running) == len(self.traces)
        if not self.traces and all(follower.task.done() for follower in self.readers):
            places = (str(self.root / "blobs"), str(self.root / "ingest"))
            assert not [name for name in open_files() if name.startswith(places)]

    def _kept(self, digest: Digest) -> int:
        file = self.root / "ingest" / f"{digest.algorithm}-{digest.hex}"
        return file.stat().st_size if file.exists() else 0


TestDownloads = DownloadsMachine.TestCase
TestDownloads.settings = settings(max_examples=150, stateful_step_count=40)
