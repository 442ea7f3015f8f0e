"""Ends of downloads: success, wrong bytes, a failing upstream, shutdown; and the state for the next download."""

import asyncio
import resource
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.config import CacheSettings
from mirror.errors import (
    DigestMismatch,
    MirrorError,
    NoSpace,
    StorageFailed,
    UpstreamDisconnected,
    UpstreamRefused,
    UpstreamUnavailable,
)
from mirror.observability.metrics import Metrics
from mirror.oci.ranges import Span
from mirror.pull.downloads import Downloads
from mirror.storage.disk import DiskStore
from mirror.storage.fact_store import DiskFacts
from tests.unit.contents import Content, layer
from tests.unit.followers import Follower
from tests.unit.loops import Loop, new_loop
from tests.unit.sources import Connection, Manner, Source
from tests.unit.storage.test_disk import open_files

BLOB = layer("large", 300_000)
SMALL = layer("small", 10_000)
WITHHELD = 64 * 2**10


@asynccontextmanager
async def stores(root: Path, limit: int = 2**20) -> AsyncIterator[DiskStore]:
    cache = CacheSettings(path=root, max_size=limit, min_free=0)
    async with DiskFacts.open(root / "ledger") as facts, DiskStore.at(cache, facts, Metrics()) as store:
        yield store


class Scene:
    """One source and its downloads. After each step the event loop runs until it is idle."""

    def __init__(self, loop: Loop, root: Path, content: Content = BLOB, limit: int = 2**20) -> None:
        self.loop = loop
        self.root = root
        self.content = content
        self.source = Source(content)
        self._context = stores(root, limit)
        self.store = loop.run(self._context.__aenter__())
        self.downloads = Downloads(self.store, lambda _: [self.source], Metrics())

    def follow(self, *, expected_size: int | None = None) -> Follower:
        follower = Follower(self.loop, self.downloads, self.source, expected_size=expected_size, is_slow=False)
        self.loop.settle()
        return follower

    @property
    def connection(self) -> Connection:
        connection = self.source.connection
        assert connection is not None
        return connection

    def send(self, end: int, *, wrong: bool = False) -> None:
        """Send all bytes up to *end*; with *wrong*, change the last one."""
        piece = self.content.body[self.connection.at : end]
        self.connection.send(piece[:-1] + bytes([piece[-1] ^ 1]) if wrong else piece)
        self.loop.settle()

    def end(self, error: MirrorError | None = None) -> None:
        self.connection.end(error)
        self.loop.settle()

    @property
    def kept(self) -> bytes:
        """The bytes that an interrupted download left."""
        file = self.root / "ingest" / f"{self.content.digest.algorithm}-{self.content.digest.hex}"
        return file.read_bytes() if file.exists() else b""

    def close(self) -> None:
        self.loop.run(self.downloads.__aexit__(None, None, None))
        self.loop.run(self._context.__aexit__(None, None, None))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with new_loop() as loop:
        scene = Scene(loop, tmp_path)
        yield scene
        scene.close()


def test_end_of_a_blob_is_withheld_until_verified(scene: Scene) -> None:
    """When all bytes are received, a reader lacks the last 64 KiB; after the verification it has them."""
    follower = scene.follow()
    scene.send(len(BLOB.body))
    assert len(BLOB.body) - WITHHELD <= len(follower.got) < len(BLOB.body)
    scene.end()
    assert follower.got == BLOB.body
    assert BLOB.digest in scene.store


@pytest.mark.parametrize("at", [1, 100_000, 300_000])
def test_wrong_byte_fails_the_download(scene: Scene, at: int) -> None:
    """No reader gets the whole, no byte is stored or kept, and the next download starts at 0."""
    followers = [scene.follow(), scene.follow()]
    scene.send(at, wrong=True)
    if at < len(BLOB.body):
        scene.send(len(BLOB.body))
    scene.end()
    assert [type(one.failure) for one in followers] == [DigestMismatch, DigestMismatch]
    assert not any(one.is_whole for one in followers)
    assert BLOB.digest not in scene.store
    assert scene.kept == b""
    again = scene.follow()
    assert scene.connection.span is None
    scene.send(len(BLOB.body))
    scene.end()
    assert again.got == BLOB.body


@pytest.mark.parametrize("announced", [-1, 1])
def test_wrong_announced_size_fails_the_download(scene: Scene, announced: int) -> None:
    """The upstream announces another size than it sends."""
    scene.source.manner = Manner(announces=announced)
    follower = scene.follow()
    scene.send(len(BLOB.body))
    while scene.source.connection is not None:
        scene.end()
    assert follower.failure is not None
    assert not follower.is_whole
    assert BLOB.digest not in scene.store


def test_size_of_the_upstream_overrides_that_of_a_manifest(scene: Scene) -> None:
    """Any client of the upstream may have pushed the manifest."""
    follower = scene.follow(expected_size=len(BLOB.body) - 1)
    scene.send(len(BLOB.body))
    scene.end()
    assert follower.got == BLOB.body


@pytest.mark.parametrize("error", [-1, 1])
def test_wrong_size_in_a_manifest_fails_the_download(scene: Scene, error: int) -> None:
    """If the upstream announces none: no reader takes a part for the whole."""
    scene.source.manner = Manner(announces=None)
    follower = scene.follow(expected_size=len(BLOB.body) + error)
    scene.send(len(BLOB.body))
    while scene.source.connection is not None:
        scene.end()
    assert not follower.is_whole
    assert follower.failure is not None
    assert BLOB.digest not in scene.store


def test_blob_of_unknown_size_is_withheld_until_its_end(scene: Scene) -> None:
    """A response needs a length: readers get all bytes after the verification."""
    scene.source.manner = Manner(announces=None)
    follower = scene.follow()
    scene.send(len(BLOB.body))
    assert follower.promised is None
    scene.end()
    assert follower.got == BLOB.body


@pytest.mark.parametrize("announces", [None, 0])
def test_announced_size_survives_a_disconnect(scene: Scene, announces: int | None) -> None:
    """Readers continue, also if the second connection announces no size."""
    follower = scene.follow()
    scene.send(100_000)
    scene.source.manner = Manner(announces=announces)
    scene.end(UpstreamDisconnected("cut"))
    assert scene.connection.span == Span(100_000, 100_000)
    scene.send(200_000)
    assert len(follower.got) == 200_000
    scene.send(300_000)
    scene.end()
    assert follower.got == BLOB.body


def test_size_that_a_later_connection_announces_counts(scene: Scene) -> None:
    """From then on readers get all bytes but the withheld ones, instead of none until the end."""
    scene.source.manner = Manner(announces=None)
    follower = scene.follow()
    scene.send(100_000)
    assert follower.got == b""
    scene.source.manner = Manner()
    scene.end(UpstreamDisconnected("cut"))
    scene.send(200_000)
    assert len(follower.got) >= 200_000 - WITHHELD
    scene.send(len(BLOB.body))
    scene.end()
    assert follower.got == BLOB.body


def test_other_size_after_a_disconnect_fails_the_download(scene: Scene) -> None:
    """A reader that received the smaller size would take the beginning for the whole."""
    scene.source.manner = Manner(announces=-100_000)
    follower = scene.follow()
    scene.send(150_000)
    scene.source.manner = Manner()
    scene.end(UpstreamDisconnected("cut"))
    if scene.source.connection is not None:
        scene.send(len(BLOB.body))
        scene.end()
    assert not follower.is_whole
    assert follower.failure is not None


def test_received_bytes_are_kept_after_the_last_attempt(scene: Scene) -> None:
    """Some attempts without a byte end the download; the next one resumes at the offset."""
    follower = scene.follow()
    scene.send(100_000)
    scene.source.manner = Manner(refusal=UpstreamUnavailable("refused"))
    scene.end(UpstreamDisconnected("cut"))
    assert isinstance(follower.failure, UpstreamUnavailable)
    assert 1 < len(scene.source.connections) < 10
    assert scene.kept == BLOB.body[:100_000]
    scene.source.manner = Manner()
    again = scene.follow()
    assert scene.connection.span == Span(100_000, 100_000)
    assert again.got == BLOB.body[:100_000]
    scene.send(len(BLOB.body))
    scene.end()
    assert again.got == BLOB.body


def test_download_with_progress_is_never_given_up(scene: Scene) -> None:
    """The number of the upstream's disconnects does not matter."""
    follower = scene.follow()
    for end in range(10_000, 300_000, 10_000):
        scene.send(end)
        scene.end(UpstreamDisconnected("cut"))
    scene.send(300_000)
    scene.end()
    assert follower.got == BLOB.body


def test_refusal_before_the_first_byte_is_final(scene: Scene) -> None:
    """No reader has a response head yet: all fail at once, and the next request asks the origin again."""
    scene.source.manner = Manner(refusal=UpstreamUnavailable("refused"))
    assert isinstance(scene.follow().failure, UpstreamUnavailable)
    assert len(scene.source.connections) == 1
    assert isinstance(scene.follow().failure, UpstreamUnavailable)
    assert len(scene.source.connections) == 2


def test_download_completes_without_readers(scene: Scene) -> None:
    """The download belongs to the mirror."""
    followers = [scene.follow(), scene.follow()]
    scene.send(100_000)
    for follower in followers:
        follower.task.cancel()
    scene.loop.settle()
    scene.send(len(BLOB.body))
    scene.end()
    assert BLOB.digest in scene.store
    assert len(scene.source.connections) == 1


def test_late_reader_gets_the_whole_blob(scene: Scene) -> None:
    """The reader gets all bytes from the first, without a second connection."""
    scene.follow()
    scene.send(250_000)
    late = scene.follow()
    assert len(late.got) == len(BLOB.body) - WITHHELD
    scene.send(len(BLOB.body))
    scene.end()
    assert late.got == BLOB.body
    assert len(scene.source.connections) == 1


def test_blob_larger_than_the_cache_is_no_space(tmp_path: Path) -> None:
    """The error has the size, so that the blob can be passed through."""
    with new_loop() as loop:
        scene = Scene(loop, tmp_path, limit=100_000)
        failure = scene.follow().failure
        scene.close()
    assert isinstance(failure, NoSpace)
    assert failure.detail["size"] == len(BLOB.body)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limit the size of files, like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_ends_the_download(scene: Scene) -> None:
    """It ends in the middle of a piece, although the upstream is silent; bytes are removed, and their space is free."""
    follower = scene.follow()
    with largest_file(123_456):
        scene.send(len(BLOB.body) - 1)
    assert isinstance(follower.failure, StorageFailed)
    assert scene.source.connection is None
    assert len(scene.kept) == scene.store.occupied == 0
    scene.loop.run(scene.store.repair())
    again = scene.follow()
    assert scene.connection.span is None
    scene.send(len(BLOB.body))
    scene.end()
    assert again.got == BLOB.body


def test_full_disk_ends_the_download_before_the_next_attempt(scene: Scene) -> None:
    """Its readers do not wait for reconnects whose bytes nothing would store."""
    follower = scene.follow()
    with largest_file(123_456):
        scene.connection.send(BLOB.body[:200_000])
        scene.source.manner = Manner(refusal=UpstreamUnavailable("the upstream is down"))
        scene.end(UpstreamDisconnected("the connection broke"))
    assert isinstance(follower.failure, StorageFailed)
    assert len(scene.source.connections) == 1


def test_bytes_before_a_failure_of_the_upstream_are_written(scene: Scene) -> None:
    """Reading ends at once, and the writer still takes what was received."""
    scene.follow()
    scene.connection.send(BLOB.body[:200_000])
    scene.end(UpstreamRefused("the upstream's 403"))
    assert scene.kept == BLOB.body[:200_000]


@pytest.mark.parametrize("steps", range(6))
def test_shutdown_fails_running_downloads(scene: Scene, steps: int) -> None:
    """A download whose task has not run yet fails too: no reader waits forever."""

    async def end() -> Follower:
        follower = Follower(scene.loop, scene.downloads, scene.source, expected_size=None, is_slow=False)
        await asyncio.sleep(0)  # it has started the download
        for _ in range(steps):
            await asyncio.sleep(0)
        await scene.downloads.__aexit__(None, None, None)
        return follower

    follower = scene.loop.run(end())
    scene.loop.settle()
    assert follower.task.done()
    assert isinstance(follower.failure, UpstreamUnavailable)
    assert BLOB.digest not in scene.downloads


@settings(max_examples=60)
@given(st.integers(0, 40), st.integers(0, 40), st.booleans(), st.sampled_from([SMALL, BLOB]))
def test_shutdown_at_any_moment_leaves_nothing_behind(steps: int, more: int, leaves: bool, content: Content) -> None:
    """No task, no descriptor, no wrong byte; the next start finds a correct blob, or bytes to resume from."""
    with tempfile.TemporaryDirectory() as directory, new_loop() as loop:
        scene = Scene(loop, Path(directory), content)
        follower = Follower(loop, scene.downloads, scene.source, expected_size=None, is_slow=False)

        async def run_loop(times: int) -> None:
            for _ in range(times):
                await asyncio.sleep(0)

        loop.run(run_loop(steps))
        if (connection := scene.source.connection) is not None:
            connection.send(content.body)
            connection.end()
        loop.run(run_loop(more))
        if leaves:
            follower.task.cancel()
        scene.close()
        loop.settle()
        assert not follower.is_whole or follower.got == content.body
        assert not asyncio.all_tasks(loop)
        assert not [name for name in open_files() if name.startswith(directory)]
        again = Scene(loop, Path(directory), content)
        assert again.store.occupied == len(content.body if content.digest in again.store else again.kept)
        assert content.body.startswith(again.kept)
        follower = again.follow()
        again.send(len(content.body)) if again.connection.at < len(content.body) else None
        again.end()
        assert follower.got == content.body
        again.close()
