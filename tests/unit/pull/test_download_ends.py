"""How downloads end: well, over wrong bytes, for good, or with the mirror; and what is there the next time."""

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
from mirror.errors import DigestMismatch, MirrorError, NoSpace, StorageFailed, UpstreamDisconnected, UpstreamUnavailable
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
    """One source and its downloads, step by step; after each step everything happens that can."""

    def __init__(self, loop: Loop, root: Path, content: Content = BLOB, limit: int = 2**20) -> None:
        self.loop = loop
        self.root = root
        self.content = content
        self.source = Source(content)
        self._context = stores(root, limit)
        self.store = loop.run(self._context.__aenter__())
        self.downloads = Downloads(self.store, lambda _: [self.source], Metrics())

    def follow(self, *, told: int | None = None) -> Follower:
        follower = Follower(self.loop, self.downloads, self.source, told=told, is_slow=False)
        self.loop.settle()
        return follower

    @property
    def connection(self) -> Connection:
        connection = self.source.connection
        assert connection is not None
        return connection

    def send(self, end: int, *, wrong: bool = False) -> None:
        """All bytes up to *end*; the last one may be another."""
        piece = self.content.body[self.connection.at : end]
        self.connection.send(piece[:-1] + bytes([piece[-1] ^ 1]) if wrong else piece)
        self.loop.settle()

    def end(self, error: MirrorError | None = None) -> None:
        self.connection.end(error)
        self.loop.settle()

    @property
    def kept(self) -> bytes:
        """What is left of a broken-off download."""
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


def test_the_end_waits_for_the_verification(scene: Scene) -> None:
    """All bytes are here, and nobody has more than may be wrong; then all is right, and everybody has it."""
    follower = scene.follow()
    scene.send(len(BLOB.body))
    assert len(BLOB.body) - WITHHELD <= len(follower.got) < len(BLOB.body)
    scene.end()
    assert follower.got == BLOB.body
    assert BLOB.digest in scene.store


@pytest.mark.parametrize("at", [1, 100_000, 300_000])
def test_one_wrong_byte_is_enough(scene: Scene, at: int) -> None:
    """First or last: nobody gets all, nothing is stored, nothing of it is kept, and the next download is a new one."""
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
def test_a_wrong_size_is_wrong_bytes(scene: Scene, announced: int) -> None:
    """Upstream announces another one than it sends."""
    scene.source.manner = Manner(announces=announced)
    follower = scene.follow()
    scene.send(len(BLOB.body))
    while scene.source.connection is not None:
        scene.end()
    assert follower.failure is not None
    assert not follower.is_whole
    assert BLOB.digest not in scene.store


def test_upstream_knows_better_than_a_manifest(scene: Scene) -> None:
    """Where both tell a size; a manifest may have been written by anybody."""
    follower = scene.follow(told=len(BLOB.body) - 1)
    scene.send(len(BLOB.body))
    scene.end()
    assert follower.got == BLOB.body


@pytest.mark.parametrize("told", [-1, 1])
def test_a_manifest_that_tells_a_wrong_size_can_only_fail(scene: Scene, told: int) -> None:
    """Where upstream tells none: nobody gets a part for all."""
    scene.source.manner = Manner(announces=None)
    follower = scene.follow(told=len(BLOB.body) + told)
    scene.send(len(BLOB.body))
    while scene.source.connection is not None:
        scene.end()
    assert not follower.is_whole
    assert follower.failure is not None
    assert BLOB.digest not in scene.store


def test_a_blob_of_unknown_size_is_withheld_until_its_end(scene: Scene) -> None:
    """Nobody can be promised a size; then all of it comes at once."""
    scene.source.manner = Manner(announces=None)
    follower = scene.follow()
    scene.send(len(BLOB.body))
    assert follower.promised is None
    scene.end()
    assert follower.got == BLOB.body


@pytest.mark.parametrize("announces", [None, 0])
def test_what_was_promised_stays_promised_over_a_cut(scene: Scene, announces: int | None) -> None:
    """Also where the second connection announces no size: the readers go on."""
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


def test_another_size_after_a_cut_is_another_blob(scene: Scene) -> None:
    """A reader that was promised the smaller one would take the beginning for all of it."""
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


def test_a_cut_for_good_keeps_what_came(scene: Scene) -> None:
    """After some tries that bring nothing; the next download goes on from there."""
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


def test_a_download_that_gets_on_is_never_given_up(scene: Scene) -> None:
    """However often it is cut."""
    follower = scene.follow()
    for end in range(10_000, 300_000, 10_000):
        scene.send(end)
        scene.end(UpstreamDisconnected("cut"))
    scene.send(300_000)
    scene.end()
    assert follower.got == BLOB.body


def test_a_source_that_refuses_is_not_asked_again(scene: Scene) -> None:
    """Before it ever answered, nobody was promised anything: everybody hears why at once, and the next one asks."""
    scene.source.manner = Manner(refusal=UpstreamUnavailable("refused"))
    assert isinstance(scene.follow().failure, UpstreamUnavailable)
    assert len(scene.source.connections) == 1
    assert isinstance(scene.follow().failure, UpstreamUnavailable)
    assert len(scene.source.connections) == 2


def test_who_leaves_changes_nothing(scene: Scene) -> None:
    """All of them: the download belongs to the mirror."""
    followers = [scene.follow(), scene.follow()]
    scene.send(100_000)
    for follower in followers:
        follower.task.cancel()
    scene.loop.settle()
    scene.send(len(BLOB.body))
    scene.end()
    assert BLOB.digest in scene.store
    assert len(scene.source.connections) == 1


def test_who_comes_late_gets_all_of_it(scene: Scene) -> None:
    """From its first byte, of the one source."""
    scene.follow()
    scene.send(250_000)
    late = scene.follow()
    assert len(late.got) == len(BLOB.body) - WITHHELD
    scene.send(len(BLOB.body))
    scene.end()
    assert late.got == BLOB.body
    assert len(scene.source.connections) == 1


def test_what_has_no_room_is_told_so(tmp_path: Path) -> None:
    """With its size, so that it can be passed through."""
    with new_loop() as loop:
        scene = Scene(loop, tmp_path, limit=100_000)
        failure = scene.follow().failure
        scene.close()
    assert isinstance(failure, NoSpace)
    assert failure.detail["size"] == len(BLOB.body)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk that is full for files beyond this size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_takes_no_more_ends_the_download(scene: Scene) -> None:
    """In the middle of a piece, perhaps: what was written takes its room no longer."""
    follower = scene.follow()
    with largest_file(123_456):
        scene.send(len(BLOB.body))
        scene.end()
    assert isinstance(follower.failure, StorageFailed)
    assert scene.source.connection is None
    assert len(scene.kept) == scene.store.occupied == 0
    scene.loop.run(scene.store.mend())
    again = scene.follow()
    assert scene.connection.span is None
    scene.send(len(BLOB.body))
    scene.end()
    assert again.got == BLOB.body


@pytest.mark.parametrize("turns", range(6))
def test_who_follows_while_the_mirror_ends_hears_of_it(scene: Scene, turns: int) -> None:
    """Also where the download has not taken its first step: nobody waits for ever."""

    async def end() -> Follower:
        follower = Follower(scene.loop, scene.downloads, scene.source, told=None, is_slow=False)
        await asyncio.sleep(0)  # it has begun the download
        for _ in range(turns):
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
def test_an_end_at_any_moment_leaves_nothing_behind(turns: int, more: int, leaves: bool, content: Content) -> None:
    """No task, no descriptor, no wrong byte; and what is there at the next start is right, or is gone on with."""
    with tempfile.TemporaryDirectory() as directory, new_loop() as loop:
        scene = Scene(loop, Path(directory), content)
        follower = Follower(loop, scene.downloads, scene.source, told=None, is_slow=False)

        async def turn(times: int) -> None:
            for _ in range(times):
                await asyncio.sleep(0)

        loop.run(turn(turns))
        if (connection := scene.source.connection) is not None:
            connection.send(content.body)
            connection.end()
        loop.run(turn(more))
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
