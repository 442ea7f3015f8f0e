"""A disk filled by other programs: the mirror evicts, or serves without storing; no pull fails because of it."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fake.answers import Valve
from tests.fake.content import Blob, image
from tests.fake.faults import Cut, Hold, Wrong
from tests.fake.registry import Registry
from tests.http.client import Client, poll_until, wait_until_cached
from tests.http.upstreams import CALM, Upstream
from tests.real.mirror import Mirror
from tests.real.mirror import mirror as running_mirror
from tests.real.mounts import small_disk

pytestmark = pytest.mark.needs("mount", root=True)

MIB = 2**20
DISK = 12 * MIB


@dataclass(frozen=True, slots=True)
class Scene:
    """A mirror on a small disk, its client and its upstream."""

    cache: Path
    mirror: Mirror
    client: Client
    upstream: Upstream

    def hold_blob(self, size: int, at: int) -> tuple[Blob, Valve]:
        """Publish a blob whose first response stops at this byte."""
        blob = self.upstream.publish_blob(Blob.noise(size))
        valve = Valve()
        self.upstream.registry.inject(Hold(valve, at=at), times=1)
        return blob, valve

    async def wait_for_ingest(self, blob: Blob, valve: Valve) -> None:
        """Wait until the response has stopped and the first bytes are on the disk."""
        await valve.reached()
        file = self.cache / "ingest" / blob.digest.replace(":", "-")
        async with asyncio.timeout(20):
            while not (file.exists() and file.stat().st_size):  # noqa: ASYNC110 - a file has no event
                await asyncio.sleep(0.01)

    @contextmanager
    def disk_filled(self) -> Iterator[None]:
        """Fill the disk, as another program would."""
        filler = self.cache / "of-others"
        with filler.open("wb", buffering=0) as file, suppress_full():
            while file.write(bytes(4096)) == 4096:
                pass
        yield
        filler.unlink(missing_ok=True)

    def free(self) -> int:
        disk = os.statvfs(self.cache)
        return disk.f_bavail * disk.f_frsize

    async def assert_stores_again(self) -> None:
        """Check that a new blob is stored, and that /readyz reports it."""
        blob = self.upstream.publish_blob(Blob.noise(MIB))
        assert (await self.client.get(self.upstream.blob(blob))).body == blob.content

        await poll_until(
            lambda: self.client.get(self.upstream.blob(blob)), lambda reply: reply.cache_status == "mirror; hit"
        )
        # A verified blob is a hit shortly before it is committed, and only the commit proves that the disk works.
        await poll_until(lambda: self.client.get("/readyz"), lambda reply: b'"cache": "ok"' in reply.body)

    async def assert_nothing_stored(self, blob: Blob) -> None:
        """Check that no part of the blob is stored, and that no bytes are counted for it."""
        assert not (self.cache / "ingest" / blob.digest.replace(":", "-")).exists()
        assert not (self.cache / "blobs" / "sha256" / blob.hex).exists()
        assert await self.mirror.total("mirror_cache_bytes") == content_in(self.cache)


@contextmanager
def suppress_full() -> Iterator[None]:
    """Expect ENOSPC."""
    try:
        yield
    except OSError as error:
        assert error.errno == 28, error  # noqa: PT017 - ENOSPC


def content_in(cache: Path) -> int:
    """Return the bytes in blobs/ and ingest/."""
    files = [*(cache / "blobs").rglob("*"), *(cache / "ingest").iterdir()]
    return sum(file.stat().st_size for file in files if file.is_file())


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Registry.running() as registry:
        yield Upstream("r.test", registry)


@asynccontextmanager
async def scenes(directory: Path, upstream: Upstream, size: int = DISK) -> AsyncIterator[Scene]:
    """Run a mirror on a small disk, with a max_size far above its size."""
    config = directory / "mirror.toml"
    config.write_text(f'{CALM}\n[cache]\nmin_free = "0"\n')
    with small_disk(directory / "cache", size) as cache:
        async with (
            running_mirror(
                directory, "--config", str(config), upstreams={upstream.name: upstream.registry.url}
            ) as mirror,
            Client.of(mirror.url) as client,
        ):
            yield Scene(cache, mirror, client, upstream)


@pytest.fixture
async def scene(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Scene]:
    async with scenes(tmp_path, upstream) as scene:
        yield scene


@pytest.mark.parametrize(
    ("size", "at"), [(4 * MIB, 2 * MIB), (4 * MIB, 1000), (50_000, 20_000), (4 * MIB, 4 * MIB - 9000)]
)
async def test_disk_fills_during_a_download(scene: Scene, size: int, at: int) -> None:
    """Readers of the whole and of ranges get all bytes; nothing is left on the disk; later blobs are stored."""
    blob, valve = scene.hold_blob(size, at)
    target = scene.upstream.blob(blob)
    whole = [asyncio.create_task(scene.client.get(target)) for _ in range(8)]
    begin = asyncio.create_task(scene.client.get(target, {"Range": f"bytes=0-{size - 2}"}))
    end = asyncio.create_task(scene.client.get(target, {"Range": "bytes=-5000"}))
    await scene.wait_for_ingest(blob, valve)
    with scene.disk_filled():
        valve.open()
        for reply in await asyncio.gather(*whole):
            assert (reply.status, reply.whole, reply.body) == (200, True, blob.content), reply
        assert (await begin).body == blob.content[:-1]
        assert (await end).body == blob.content[-5000:]
        assert (await scene.client.get(target)).body == blob.content
        await scene.assert_nothing_stored(blob)
        assert b'"cache": "failing' in (await scene.client.get("/readyz")).body
    await scene.assert_stores_again()


async def test_old_blobs_are_evicted_first(scene: Scene) -> None:
    """Least recently used blobs are evicted before a download stops being stored."""
    old = scene.upstream.publish_blob(Blob.noise(5 * MIB))
    await scene.client.get(scene.upstream.blob(old))
    await wait_until_cached(scene.client, scene.upstream.blob(old))
    blob, valve = scene.hold_blob(4 * MIB, MIB)
    getting = asyncio.create_task(scene.client.get(scene.upstream.blob(blob)))
    await scene.wait_for_ingest(blob, valve)
    with scene.disk_filled():
        valve.open()
        assert (await getting).body == blob.content
        await wait_until_cached(scene.client, scene.upstream.blob(blob))
        assert not (scene.cache / "blobs" / "sha256" / old.hex).exists()
    assert len(scene.upstream.registry.of_blob(blob)) == 1
    assert await scene.mirror.total("mirror_cache_bytes") == content_in(scene.cache)


@pytest.mark.parametrize("size", [4 * MIB, 50_000])
async def test_unstored_stream_is_verified_as_a_whole(scene: Scene, size: int) -> None:
    """The beginning is on the disk, the end comes from upstream: with wrong bytes, no reader gets a complete body."""
    blob, valve = scene.hold_blob(size, size // 2)
    scene.upstream.registry.inject(Wrong())
    getting = [asyncio.create_task(scene.client.get(scene.upstream.blob(blob))) for _ in range(3)]
    await scene.wait_for_ingest(blob, valve)
    with scene.disk_filled():
        valve.open()
        for reply in await asyncio.gather(*getting):
            assert not (reply.status == 200 and reply.whole), reply
            assert blob.content.startswith(reply.body) or reply.status != 200


async def test_unstored_stream_is_resumed_after_a_disconnect(scene: Scene) -> None:
    """A download continued as an unstored stream is resumed like any other."""
    blob, valve = scene.hold_blob(6 * MIB, 2 * MIB)
    getting = asyncio.create_task(scene.client.get(scene.upstream.blob(blob)))
    await scene.wait_for_ingest(blob, valve)
    scene.upstream.registry.inject(Cut(at=4 * MIB), times=1)
    with scene.disk_filled():
        valve.open()
        reply = await getting
        assert (reply.whole, reply.body) == (True, blob.content), reply


async def test_full_disk_is_not_retried_with_every_pull(scene: Scene) -> None:
    """Cached or cold, blobs and manifests are served; none is stored, and there are few warnings."""
    manifest = scene.upstream.publish(image(MIB, 2 * MIB), "v1")
    lone = scene.upstream.publish_blob(Blob.noise(MIB))
    with scene.disk_filled():
        for _ in range(20):
            reply = await scene.client.get(scene.upstream.manifest("v1"))
            assert (reply.status, reply.body) == (200, manifest.content), reply
            for blob in (*manifest.blobs, lone):
                reply = await scene.client.get(scene.upstream.blob(blob))
                assert (reply.status, reply.whole, reply.body) == (200, True, blob.content), reply
        for blob in (*manifest.blobs, lone):
            await scene.assert_nothing_stored(blob)
        assert all(len(scene.upstream.registry.of_blob(blob)) <= 21 for blob in manifest.blobs)
        warned = [event for event in scene.mirror.events() if event["level"] == "warning"]
        assert len(warned) < 10, warned
    await scene.assert_stores_again()


async def test_facts_survive_a_full_disk(scene: Scene) -> None:
    """Facts learned while the disk was full are used, and written once there is space."""
    manifest = scene.upstream.publish(image(1000), "v1")
    with scene.disk_filled():
        assert (await scene.client.get(scene.upstream.manifest("v1"))).body == manifest.content
    await scene.assert_stores_again()
    assert (await scene.client.get(scene.upstream.manifest("v1"))).body == manifest.content


async def test_start_on_a_full_disk(tmp_path: Path, upstream: Upstream) -> None:
    """The oldest blobs are evicted to make space; the fact database stays intact, so that the rest can be served."""
    old, young = (upstream.publish_blob(Blob.noise(2 * MIB)) for _ in range(2))
    config = tmp_path / "mirror.toml"
    config.write_text(f'{CALM}\n[cache]\nmin_free = "0"\n')
    arguments = ("--config", str(config))
    upstreams = {upstream.name: upstream.registry.url}
    with small_disk(tmp_path / "cache", DISK) as cache:
        async with (
            running_mirror(tmp_path, *arguments, upstreams=upstreams) as mirror,
            Client.of(mirror.url) as client,
        ):
            for blob in (old, young):
                await client.get(upstream.blob(blob))
                await wait_until_cached(client, upstream.blob(blob))
        scene = Scene(cache, mirror, client, upstream)
        asked = len(upstream.registry.journal)
        with scene.disk_filled():
            async with (
                running_mirror(tmp_path, *arguments, upstreams=upstreams) as again,
                Client.of(again.url) as client,
            ):
                assert (await client.get(upstream.blob(young))).cache_status == "mirror; hit"
                assert not (cache / "blobs" / "sha256" / old.hex).exists()
                assert not again.events("facts_damaged")
    assert len(upstream.registry.journal) == asked
