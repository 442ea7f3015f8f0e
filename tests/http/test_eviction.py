"""The limit on the cache's size holds at every moment; eviction removes the least recently used content."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from tests.fake.answers import Valve
from tests.fake.content import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Blob, Manifest, descriptor, image
from tests.fake.faults import Cut, Hold, Unframed, Wrong
from tests.fake.registry import Registry
from tests.http.client import WITHIN, Client, read_rest, wait_until_cached
from tests.http.upstreams import CALM, Upstream
from tests.real.mirror import Mirror
from tests.real.mirror import mirror as running_mirror

MIB = 2**20
LIMIT = 4 * MIB


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """The upstream of the small mirror."""
    async with Registry.running() as registry:
        yield Upstream("r.test", registry)


@asynccontextmanager
async def small_mirror(
    directory: Path, upstream: Upstream, max_size: int = LIMIT, min_free: str = "0"
) -> AsyncIterator[tuple[Mirror, Client]]:
    """Run a mirror with this max_size, and a client."""
    config = directory / "mirror.toml"
    config.write_text(f'{CALM}\n[cache]\nmax_size = {max_size}\nmin_free = "{min_free}"\n')
    arguments = ("--config", str(config))
    async with (
        running_mirror(directory, *arguments, upstreams={upstream.name: upstream.registry.url}) as mirror,
        Client.of(mirror.url) as client,
    ):
        yield mirror, client


@pytest.fixture
async def small(tmp_path: Path, upstream: Upstream) -> AsyncIterator[tuple[Mirror, Client]]:
    """A mirror with 4 MiB, and a client."""
    async with small_mirror(tmp_path, upstream) as both:
        yield both


@pytest.fixture
def mirror(small: tuple[Mirror, Client]) -> Mirror:
    """A mirror with 4 MiB."""
    return small[0]


@pytest.fixture
def client(small: tuple[Mirror, Client]) -> Client:
    """A client of the mirror."""
    return small[1]


class Watch:
    """The maximum of the stored bytes, and the number of samples."""

    def __init__(self) -> None:
        self.most = 0
        self.looks = 0


@contextmanager
def watch_size(mirror: Mirror) -> Iterator[Watch]:
    """Sample the size of the mirror's cache while the block lasts."""
    watch = Watch()

    async def look() -> None:
        while True:
            occupied = mirror.occupied()
            if occupied is not None:
                watch.most = max(watch.most, occupied)
                watch.looks += 1
            await asyncio.sleep(0.002)

    looking = asyncio.get_running_loop().create_task(look())
    try:
        yield watch
    finally:
        looking.cancel()


async def fetch(client: Client, upstream: Upstream, blob: Blob) -> None:
    """Pull one blob, and check its bytes."""
    reply = await client.get(upstream.blob(blob))
    assert (reply.status, reply.whole, reply.body) == (200, True, blob.content), reply


async def store(client: Client, upstream: Upstream, *blobs: Blob) -> None:
    """Pull blobs one after another, and wait until each is stored."""
    for blob in blobs:
        await fetch(client, upstream, blob)
        await wait_until_cached(client, upstream.blob(blob))


async def is_downloaded(client: Client, upstream: Upstream, blob: Blob) -> bool:
    """Return whether a pull of this blob caused an upstream request."""
    before = len(upstream.registry.of_blob(blob))
    await fetch(client, upstream, blob)
    return len(upstream.registry.of_blob(blob)) > before


def blobs_of(upstream: Upstream, count: int, size: int) -> list[Blob]:
    """Publish new blobs."""
    return [upstream.publish_blob(Blob.noise(size)) for _ in range(count)]


@pytest.mark.parametrize("at_once", [1, 3, 12])
async def test_size_limit_holds_at_every_moment(
    mirror: Mirror, client: Client, upstream: Upstream, at_once: int
) -> None:
    """Space is made before bytes are written, for any number of concurrent downloads; every client gets its bytes."""
    blobs = blobs_of(upstream, 12, MIB)
    with watch_size(mirror) as watch:
        for start in range(0, 12, at_once):
            await asyncio.gather(*(fetch(client, upstream, blob) for blob in blobs[start : start + at_once]))
    assert watch.looks > 3
    assert MIB < watch.most <= LIMIT


async def test_size_limit_holds_for_mixed_content(mirror: Mirror, client: Client, upstream: Upstream) -> None:
    """The same with odd sizes, manifests and unknown lengths."""
    with watch_size(mirror) as watch:
        for number in range(1, 25):
            manifest = upstream.publish(image(number * 40_000, MIB // number), f"v{number}")
            if number % 3 == 0:
                upstream.registry.inject(Unframed(), f"*/blobs/{manifest.blobs[1].digest}")
            assert (await client.get(upstream.manifest(f"v{number}"))).body == manifest.content
            await asyncio.gather(*(fetch(client, upstream, blob) for blob in manifest.blobs))
    assert 2 * MIB < watch.most <= LIMIT


async def test_least_recently_used_blob_is_evicted(client: Client, upstream: Upstream) -> None:
    """The order of eviction is that of last use, not of age."""
    first, second, third, fourth = blobs_of(upstream, 4, 1_200_000)
    await store(client, upstream, first, second, third, first, fourth)
    assert not await is_downloaded(client, upstream, first)
    assert not await is_downloaded(client, upstream, third)
    assert not await is_downloaded(client, upstream, fourth)
    assert await is_downloaded(client, upstream, second)


async def test_head_and_range_count_as_uses(client: Client, upstream: Upstream) -> None:
    """Lazy snapshotters read ranges; other clients check by HEAD whether a blob exists."""
    first, second, third, fourth = blobs_of(upstream, 4, 1_200_000)
    await store(client, upstream, first, second, third)
    await client.get(upstream.blob(first), {"Range": "bytes=0-1"})
    await client.head(upstream.blob(second))
    await store(client, upstream, fourth)
    assert not await is_downloaded(client, upstream, first)
    assert not await is_downloaded(client, upstream, second)


async def pull(client: Client, upstream: Upstream, manifest: Manifest) -> None:
    """Pull a whole image by digest."""
    assert (await client.get(upstream.manifest(manifest))).body == manifest.content
    await store(client, upstream, *manifest.blobs)


@pytest.mark.parametrize("by", ["digest", "tag"])
async def test_use_of_a_manifest_counts_for_its_layers(client: Client, upstream: Upstream, by: str) -> None:
    """Clients skip layers they have: those of a frequently pulled base image must not be evicted for that."""
    daily = upstream.publish(image(1_500_000), "v1")
    (other, newcomer) = blobs_of(upstream, 2, 1_500_000)
    await client.get(upstream.manifest("v1"))
    await pull(client, upstream, daily)
    await store(client, upstream, other)
    assert (await client.get(upstream.manifest("v1" if by == "tag" else daily))).cache_status == "mirror; hit"
    await store(client, upstream, newcomer)
    assert not await is_downloaded(client, upstream, daily.blobs[1])
    assert await is_downloaded(client, upstream, other)


async def test_shared_layer_stays_with_the_image_in_use(client: Client, upstream: Upstream) -> None:
    """Of two images with a common layer one is evicted: the other is still complete."""
    base = Blob.noise(MIB)
    used, forgotten = (image_with_base(base, Blob.noise(600_000)) for _ in range(2))
    for manifest in (used, forgotten):
        upstream.publish(manifest)
        await pull(client, upstream, manifest)
    for newcomer in blobs_of(upstream, 3, 700_000):
        assert (await client.get(upstream.manifest(used))).cache_status == "mirror; hit"
        await store(client, upstream, newcomer)
    before = len(upstream.registry.journal)
    await pull(client, upstream, used)
    assert len(upstream.registry.journal) == before
    assert await is_downloaded(client, upstream, forgotten.blobs[2])


def image_with_base(base: Blob, own: Blob) -> Manifest:
    """Return an image with a config, a given base layer, and a layer of its own."""
    config = Blob.noise(50)
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(config, OCI_CONFIG),
        "layers": [descriptor(layer, OCI_LAYER) for layer in (base, own)],
    }
    return Manifest.of(body, OCI_MANIFEST, blobs=(config, base, own))


async def test_blob_being_read_is_not_truncated(mirror: Mirror, client: Client, upstream: Upstream) -> None:
    """The reader of a blob gets all of it, though three times the limit is pulled meanwhile."""
    (read,) = blobs_of(upstream, 1, 3 * MIB)
    await store(client, upstream, read)
    with watch_size(mirror) as watch:
        async with client.open(upstream.blob(read)) as answer:
            begin = await answer.content.readexactly(1000)
            for blob in blobs_of(upstream, 12, MIB):
                await fetch(client, upstream, blob)
            rest, whole = await read_rest(answer)
    assert whole
    assert begin + rest == read.content
    assert watch.most <= LIMIT


async def test_download_in_progress_is_not_evicted(mirror: Mirror, client: Client, upstream: Upstream) -> None:
    """A stalled download survives any number of others, and is stored at its end."""
    (slow,) = blobs_of(upstream, 1, 2 * MIB)
    valve = Valve()
    upstream.registry.inject(Hold(valve, at=MIB), f"*/{slow.digest}")
    with watch_size(mirror) as watch:
        arriving = asyncio.create_task(client.get(upstream.blob(slow)))
        await valve.reached()
        upstream.registry.heal()
        for blob in blobs_of(upstream, 6, MIB):
            await fetch(client, upstream, blob)
        valve.open()
        assert (await arriving).body == slow.content
    await wait_until_cached(client, upstream.blob(slow))
    assert watch.most <= LIMIT
    assert not await is_downloaded(client, upstream, slow)


async def test_blob_larger_than_the_cache_is_not_stored(mirror: Mirror, client: Client, upstream: Upstream) -> None:
    """It is served whole and verified, and nothing is evicted for it."""
    (small,), (large,) = blobs_of(upstream, 1, MIB), blobs_of(upstream, 1, LIMIT + 1)
    await store(client, upstream, small)
    with watch_size(mirror) as watch:
        for _ in range(2):
            reply = await client.get(upstream.blob(large))
            assert (reply.status, reply.whole, reply.body) == (200, True, large.content), reply
            assert "stored" not in reply.cache_status
            assert reply.cache_status.startswith("mirror; fwd=uri-miss")
    assert watch.most <= LIMIT
    assert len(upstream.registry.of_blob(large)) >= 2
    assert not await is_downloaded(client, upstream, small)


async def test_range_of_a_blob_larger_than_the_cache(client: Client, upstream: Upstream) -> None:
    """Ranges of unstored streams are served."""
    (large,) = blobs_of(upstream, 1, LIMIT + 1)
    reply = await client.get(upstream.blob(large), {"Range": "bytes=1000-1999"})
    assert (reply.status, reply.body) == (206, large.content[1000:2000]), reply


async def test_unstored_stream_is_verified(client: Client, upstream: Upstream) -> None:
    """Wrong bytes in an unstored stream truncate the response."""
    (large,) = blobs_of(upstream, 1, LIMIT + 1)
    upstream.registry.inject(Wrong())
    reply = await client.get(upstream.blob(large))
    assert (reply.status, reply.whole) == (200, False)
    assert len(reply.body) < large.size


async def test_interrupted_unstored_stream_is_resumed(client: Client, upstream: Upstream) -> None:
    """Large blobs need it most: the rest is requested by Range, for a whole blob and for a range of it."""
    (large,) = blobs_of(upstream, 1, LIMIT + MIB)
    await fetch(client, upstream, large)
    upstream.registry.inject(Cut(at=2 * MIB), times=1)
    await fetch(client, upstream, large)
    upstream.registry.inject(Cut(at=3 * MIB), times=1)
    reply = await client.get(upstream.blob(large), {"Range": f"bytes={MIB}-{4 * MIB - 1}"})
    assert (reply.status, reply.whole, reply.body) == (206, True, large.content[MIB : 4 * MIB]), reply


async def test_unexpectedly_large_blob_stays_within_the_limit(
    mirror: Mirror, client: Client, upstream: Upstream
) -> None:
    """The size is unknown without Content-Length: the client gets right bytes or a disconnect."""
    (large,) = blobs_of(upstream, 1, LIMIT + MIB)
    upstream.registry.inject(Unframed())
    with watch_size(mirror) as watch:
        reply = await client.get(upstream.blob(large))
    if reply.status == 200:
        assert reply.body == large.content[: len(reply.body)]
        assert reply.whole == (len(reply.body) == large.size)
    assert watch.most <= LIMIT


async def test_unexpectedly_large_blob_does_not_empty_the_cache(client: Client, upstream: Upstream) -> None:
    """A blob of unknown size takes the free space, and evicts little."""
    blobs = blobs_of(upstream, 3, MIB)
    await store(client, upstream, *blobs)
    (large,) = blobs_of(upstream, 1, LIMIT + MIB)
    upstream.registry.inject(Unframed(), f"*/{large.digest}")
    await client.get(upstream.blob(large))
    upstream.registry.heal()
    for blob in blobs:
        assert not await is_downloaded(client, upstream, blob)


async def test_min_free_prevents_storing(tmp_path: Path, upstream: Upstream) -> None:
    """The mirror stores nothing while less than min_free is free, and still serves everything."""
    async with small_mirror(tmp_path, upstream, min_free="4000TiB") as (mirror, client):
        manifest = upstream.publish(image(1000, MIB), "v1")
        for _ in range(2):
            assert (await client.get(upstream.manifest("v1"))).body == manifest.content
            for blob in manifest.blobs:
                await fetch(client, upstream, blob)
        assert len(upstream.registry.of_blob(manifest.blobs[1])) >= 2
    assert mirror.cache.occupied() == 0


async def test_restart_with_a_smaller_max_size_evicts(tmp_path: Path, upstream: Upstream) -> None:
    """The excess is evicted soon after the start, by last use before the restart too."""
    blobs = blobs_of(upstream, 3, MIB)
    async with small_mirror(tmp_path, upstream) as (_, client):
        await store(client, upstream, *blobs, blobs[0])
    async with small_mirror(tmp_path, upstream, max_size=MIB + MIB // 2) as (mirror, client):
        async with asyncio.timeout(WITHIN):
            while (mirror.occupied() or LIMIT) > MIB + MIB // 2:  # noqa: ASYNC110 - a directory has no event
                await asyncio.sleep(0.05)
        assert not await is_downloaded(client, upstream, blobs[0])
