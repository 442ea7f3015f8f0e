"""The limit on the cache's size holds at every moment, and what was used last stays."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from tests.fake.answers import Valve
from tests.fake.content import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Blob, Manifest, descriptor, image
from tests.fake.faults import Cut, Hold, Unframed, Wrong
from tests.fake.registry import Registry
from tests.http.client import WITHIN, Client, kept, rest_of
from tests.http.upstreams import CALM, Upstream
from tests.real.mirror import Mirror
from tests.real.mirror import mirror as running_mirror

MIB = 2**20
LIMIT = 4 * MIB


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """The registry behind the small mirror."""
    async with Registry.running() as registry:
        yield Upstream("r.test", registry)


@asynccontextmanager
async def small_mirror(
    directory: Path, upstream: Upstream, max_size: int = LIMIT, min_free: str = "0"
) -> AsyncIterator[tuple[Mirror, Client]]:
    """A mirror that may store *max_size* bytes, and somebody who asks it."""
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
    """A mirror with 4 MiB, and somebody who asks it."""
    async with small_mirror(tmp_path, upstream) as both:
        yield both


@pytest.fixture
def mirror(small: tuple[Mirror, Client]) -> Mirror:
    """A mirror with 4 MiB."""
    return small[0]


@pytest.fixture
def client(small: tuple[Mirror, Client]) -> Client:
    """Asks it."""
    return small[1]


class Watch:
    """The most that was stored while one looked."""

    def __init__(self) -> None:
        self.most = 0
        self.looks = 0


@contextmanager
def watched(mirror: Mirror) -> Iterator[Watch]:
    """Looks at its cache all the while."""
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
    """A pull of one blob, with right bytes."""
    reply = await client.get(upstream.blob(blob))
    assert (reply.status, reply.whole, reply.body) == (200, True, blob.content), reply


async def store(client: Client, upstream: Upstream, *blobs: Blob) -> None:
    """Pulls of blobs one after another, each in the cache before the next."""
    for blob in blobs:
        await fetch(client, upstream, blob)
        await kept(client, upstream.blob(blob))


async def asked(client: Client, upstream: Upstream, blob: Blob) -> bool:
    """Whether a pull of this blob had to go upstream."""
    before = len(upstream.registry.of_blob(blob))
    await fetch(client, upstream, blob)
    return len(upstream.registry.of_blob(blob)) > before


def blobs_of(upstream: Upstream, count: int, size: int) -> list[Blob]:
    """New blobs in the registry."""
    return [upstream.publish_blob(Blob.noise(size)) for _ in range(count)]


@pytest.mark.parametrize("at_once", [1, 3, 12])
async def test_three_times_the_limit_never_stands_above_it(
    mirror: Mirror, client: Client, upstream: Upstream, at_once: int
) -> None:
    """Room is made before the bytes arrive, however many come together; every client gets its bytes."""
    blobs = blobs_of(upstream, 12, MIB)
    with watched(mirror) as watch:
        for start in range(0, 12, at_once):
            await asyncio.gather(*(fetch(client, upstream, blob) for blob in blobs[start : start + at_once]))
    assert watch.looks > 3
    assert MIB < watch.most <= LIMIT


async def test_blobs_of_all_sizes(mirror: Mirror, client: Client, upstream: Upstream) -> None:
    """The same with odd sizes, manifests and unknown lengths among them."""
    with watched(mirror) as watch:
        for number in range(1, 25):
            manifest = upstream.publish(image(number * 40_000, MIB // number), f"v{number}")
            if number % 3 == 0:
                upstream.registry.inject(Unframed(), f"*/blobs/{manifest.blobs[1].digest}")
            assert (await client.get(upstream.manifest(f"v{number}"))).body == manifest.content
            await asyncio.gather(*(fetch(client, upstream, blob) for blob in manifest.blobs))
    assert 2 * MIB < watch.most <= LIMIT


async def test_what_was_used_last_stays(client: Client, upstream: Upstream) -> None:
    """Eviction goes by last use, not by age."""
    first, second, third, fourth = blobs_of(upstream, 4, 1_200_000)
    await store(client, upstream, first, second, third, first, fourth)
    assert not await asked(client, upstream, first)
    assert not await asked(client, upstream, third)
    assert not await asked(client, upstream, fourth)
    assert await asked(client, upstream, second)


async def test_head_and_range_are_uses_too(client: Client, upstream: Upstream) -> None:
    """Lazy snapshotters read parts, others look whether a blob is there."""
    first, second, third, fourth = blobs_of(upstream, 4, 1_200_000)
    await store(client, upstream, first, second, third)
    await client.get(upstream.blob(first), {"Range": "bytes=0-1"})
    await client.head(upstream.blob(second))
    await store(client, upstream, fourth)
    assert not await asked(client, upstream, first)
    assert not await asked(client, upstream, second)


async def pull(client: Client, upstream: Upstream, manifest: Manifest) -> None:
    """A pull of a whole image by digest."""
    assert (await client.get(upstream.manifest(manifest))).body == manifest.content
    await store(client, upstream, *manifest.blobs)


@pytest.mark.parametrize("by", ["digest", "tag"])
async def test_using_a_manifest_uses_its_layers(client: Client, upstream: Upstream, by: str) -> None:
    """Clients skip the layers they have: a base image that is pulled every day must not lose its layers for it."""
    daily = upstream.publish(image(1_500_000), "v1")
    (other, newcomer) = blobs_of(upstream, 2, 1_500_000)
    await client.get(upstream.manifest("v1"))
    await pull(client, upstream, daily)
    await store(client, upstream, other)
    assert (await client.get(upstream.manifest("v1" if by == "tag" else daily))).cache_status == "mirror; hit"
    await store(client, upstream, newcomer)
    assert not await asked(client, upstream, daily.blobs[1])
    assert await asked(client, upstream, other)


async def test_a_shared_layer_stays_with_the_image_that_is_used(client: Client, upstream: Upstream) -> None:
    """Two images have a layer in common; one is evicted: the other is still whole, without upstream."""
    base = Blob.noise(MIB)
    used, forgotten = (sharing(base, Blob.noise(600_000)) for _ in range(2))
    for manifest in (used, forgotten):
        upstream.publish(manifest)
        await pull(client, upstream, manifest)
    for newcomer in blobs_of(upstream, 3, 700_000):
        assert (await client.get(upstream.manifest(used))).cache_status == "mirror; hit"
        await store(client, upstream, newcomer)
    before = len(upstream.registry.journal)
    await pull(client, upstream, used)
    assert len(upstream.registry.journal) == before
    assert await asked(client, upstream, forgotten.blobs[2])


def sharing(base: Blob, own: Blob) -> Manifest:
    """An image of a config, a layer that others have too, and a layer of its own."""
    config = Blob.noise(50)
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(config, OCI_CONFIG),
        "layers": [descriptor(layer, OCI_LAYER) for layer in (base, own)],
    }
    return Manifest.of(body, OCI_MANIFEST, blobs=(config, base, own))


async def test_a_blob_being_read_is_not_cut(mirror: Mirror, client: Client, upstream: Upstream) -> None:
    """A reader in the middle of a blob gets its end, though three times the limit was pulled meanwhile."""
    (read,) = blobs_of(upstream, 1, 3 * MIB)
    await store(client, upstream, read)
    with watched(mirror) as watch:
        async with client.open(upstream.blob(read)) as answer:
            begin = await answer.content.readexactly(1000)
            for blob in blobs_of(upstream, 12, MIB):
                await fetch(client, upstream, blob)
            rest, whole = await rest_of(answer)
    assert whole
    assert begin + rest == read.content
    assert watch.most <= LIMIT


async def test_what_is_arriving_is_not_evicted(mirror: Mirror, client: Client, upstream: Upstream) -> None:
    """A download held in the middle survives any number of others, and is stored in the end."""
    (slow,) = blobs_of(upstream, 1, 2 * MIB)
    valve = Valve()
    upstream.registry.inject(Hold(valve, at=MIB), f"*/{slow.digest}")
    with watched(mirror) as watch:
        arriving = asyncio.create_task(client.get(upstream.blob(slow)))
        await valve.reached()
        upstream.registry.heal()
        for blob in blobs_of(upstream, 6, MIB):
            await fetch(client, upstream, blob)
        valve.open()
        assert (await arriving).body == slow.content
    await kept(client, upstream.blob(slow))
    assert watch.most <= LIMIT
    assert not await asked(client, upstream, slow)


async def test_a_blob_larger_than_the_cache_passes_through(mirror: Mirror, client: Client, upstream: Upstream) -> None:
    """Served whole, verified, not stored, and nothing else is thrown out for it."""
    (small,), (large,) = blobs_of(upstream, 1, MIB), blobs_of(upstream, 1, LIMIT + 1)
    await store(client, upstream, small)
    with watched(mirror) as watch:
        for _ in range(2):
            reply = await client.get(upstream.blob(large))
            assert (reply.status, reply.whole, reply.body) == (200, True, large.content), reply
            assert "stored" not in reply.cache_status
            assert reply.cache_status.startswith("mirror; fwd=uri-miss")
    assert watch.most <= LIMIT
    assert len(upstream.registry.of_blob(large)) >= 2
    assert not await asked(client, upstream, small)


async def test_a_part_of_a_blob_larger_than_the_cache(client: Client, upstream: Upstream) -> None:
    """Range works on what passes through."""
    (large,) = blobs_of(upstream, 1, LIMIT + 1)
    reply = await client.get(upstream.blob(large), {"Range": "bytes=1000-1999"})
    assert (reply.status, reply.body) == (206, large.content[1000:2000]), reply


async def test_wrong_bytes_do_not_pass_through_whole(client: Client, upstream: Upstream) -> None:
    """Unstored is not unverified."""
    (large,) = blobs_of(upstream, 1, LIMIT + 1)
    upstream.registry.inject(Wrong())
    reply = await client.get(upstream.blob(large))
    assert (reply.status, reply.whole) == (200, False)
    assert len(reply.body) < large.size


async def test_a_passage_that_is_cut_is_resumed(client: Client, upstream: Upstream) -> None:
    """Large blobs need it most: the rest is asked for by Range, stored or not, of the whole and of a part."""
    (large,) = blobs_of(upstream, 1, LIMIT + MIB)
    await fetch(client, upstream, large)
    upstream.registry.inject(Cut(at=2 * MIB), times=1)
    await fetch(client, upstream, large)
    upstream.registry.inject(Cut(at=3 * MIB), times=1)
    reply = await client.get(upstream.blob(large), {"Range": f"bytes={MIB}-{4 * MIB - 1}"})
    assert (reply.status, reply.whole, reply.body) == (206, True, large.content[MIB : 4 * MIB]), reply


async def test_a_length_that_turns_out_too_large(mirror: Mirror, client: Client, upstream: Upstream) -> None:
    """Without a Content-Length nobody knows before: right bytes or a clean cut, and never above the limit."""
    (large,) = blobs_of(upstream, 1, LIMIT + MIB)
    upstream.registry.inject(Unframed())
    with watched(mirror) as watch:
        reply = await client.get(upstream.blob(large))
    if reply.status == 200:
        assert reply.body == large.content[: len(reply.body)]
        assert reply.whole == (len(reply.body) == large.size)
    assert watch.most <= LIMIT


async def test_a_length_that_turns_out_too_large_empties_no_cache(client: Client, upstream: Upstream) -> None:
    """What has a size that nobody tells takes what is free, and little that is not."""
    blobs = blobs_of(upstream, 3, MIB)
    await store(client, upstream, *blobs)
    (large,) = blobs_of(upstream, 1, LIMIT + MIB)
    upstream.registry.inject(Unframed(), f"*/{large.digest}")
    await client.get(upstream.blob(large))
    upstream.registry.heal()
    for blob in blobs:
        assert not await asked(client, upstream, blob)


async def test_a_floor_of_free_disk(tmp_path: Path, upstream: Upstream) -> None:
    """Where less is free than min_free wants nothing is stored, and everything still served."""
    async with small_mirror(tmp_path, upstream, min_free="4000TiB") as (mirror, client):
        manifest = upstream.publish(image(1000, MIB), "v1")
        for _ in range(2):
            assert (await client.get(upstream.manifest("v1"))).body == manifest.content
            for blob in manifest.blobs:
                await fetch(client, upstream, blob)
        assert len(upstream.registry.of_blob(manifest.blobs[1])) >= 2
    assert mirror.cache.occupied() == 0


async def test_a_restart_with_less_room(tmp_path: Path, upstream: Upstream) -> None:
    """What is too much is evicted soon after the start, by last use also over the restart."""
    blobs = blobs_of(upstream, 3, MIB)
    async with small_mirror(tmp_path, upstream) as (_, client):
        await store(client, upstream, *blobs, blobs[0])
    async with small_mirror(tmp_path, upstream, max_size=MIB + MIB // 2) as (mirror, client):
        async with asyncio.timeout(WITHIN):
            while (mirror.occupied() or LIMIT) > MIB + MIB // 2:  # noqa: ASYNC110 - a directory announces nothing
                await asyncio.sleep(0.05)
        assert not await asked(client, upstream, blobs[0])
