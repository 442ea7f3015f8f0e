"""Byte ranges of blobs that are not cached yet, or only in part."""

import asyncio

import pytest

from tests.fake.answers import Valve
from tests.fake.content import Blob
from tests.fake.faults import Hold, Slow
from tests.fake.registry import Registry
from tests.http.client import Client, Reply, read_rest, wait_until_cached
from tests.http.upstreams import Upstream
from tests.real.mirror import Mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20


def check(reply: Reply, blob: Blob, first: int, stop: int) -> None:
    """Check that a response is exactly this range."""
    assert (reply.status, reply.whole) == (206, True), reply
    assert reply.headers["Content-Range"] == f"bytes {first}-{stop - 1}/{blob.size}"
    assert reply.length == stop - first
    assert reply.body == blob.content[first:stop]


def transferred(registry: Registry, blob: Blob) -> int:
    """Return the number of bytes of a blob that upstream has sent."""
    return sum(seen.sent for seen in registry.of_blob(blob))


@pytest.mark.parametrize(
    ("asked", "first", "stop"),
    [
        ("0-", 0, 2 * MIB),
        ("0-1", 0, 2),
        ("100-199", 100, 200),
        ("1048576-", MIB, 2 * MIB),
        ("-500", 2 * MIB - 500, 2 * MIB),
        ("2097000-9999999", 2_097_000, 2 * MIB),
    ],
)
async def test_range_of_a_cold_blob(client: Client, upstream: Upstream, asked: str, first: int, stop: int) -> None:
    """206 with the range; at most one more request for the whole blob, which is then stored."""
    blob = upstream.publish_blob(Blob.noise(2 * MIB))
    check(await client.get(upstream.blob(blob), {"Range": f"bytes={asked}"}), blob, first, stop)
    reply = await client.get(upstream.blob(blob))
    assert (reply.status, reply.whole, reply.body) == (200, True, blob.content)
    assert transferred(upstream.registry, blob) <= blob.size + (stop - first)
    requests = len(upstream.registry.of_blob(blob))
    assert requests <= 2
    check(await client.get(upstream.blob(blob), {"Range": f"bytes={asked}"}), blob, first, stop)
    assert len(upstream.registry.of_blob(blob)) == requests


async def test_unsatisfiable_range_of_a_cold_blob(client: Client, upstream: Upstream) -> None:
    """416 with the size, which the mirror had to request."""
    blob = upstream.publish_blob(Blob.noise(1000))
    reply = await client.get(upstream.blob(blob), {"Range": "bytes=1000-"})
    assert (reply.status, reply.headers.get("Content-Range")) == (416, "bytes */1000"), reply


async def test_several_ranges_of_a_cold_blob(client: Client, upstream: Upstream) -> None:
    """200, 206, or 400, after which podman and stargz fall back; 416 would make them fail."""
    blob = upstream.publish_blob(Blob.noise(MIB))
    reply = await client.get(upstream.blob(blob), {"Range": "bytes=0-9,500-599"})
    assert reply.status in (200, 206, 400), reply
    if reply.status == 200:
        assert reply.body == blob.content
    if reply.status == 206:
        assert reply.headers["Content-Type"].startswith("multipart/byteranges")
        assert reply.body.count(b"Content-Range: bytes ") == 2
    assert all("," not in (seen.range or "") for seen in upstream.registry.of_blob(blob))


async def test_range_of_a_missing_blob_is_404(client: Client, upstream: Upstream) -> None:
    """404 with or without a Range."""
    upstream.publish_blob(Blob.noise(3))
    assert (await client.get(upstream.blob(Blob.noise(4)), {"Range": "bytes=0-1"})).status == 404


async def test_ranges_of_a_partially_downloaded_blob(client: Client, upstream: Upstream) -> None:
    """Ranges already downloaded are served at once; others when they arrive, or by a request of their own."""
    blob = upstream.publish_blob(Blob.noise(4 * MIB))
    valve = Valve()
    upstream.registry.inject(Hold(valve, at=2 * MIB), ranged=False)
    async with client.open(upstream.blob(blob)) as answer:
        await valve.reached()
        here = await client.get(upstream.blob(blob), {"Range": "bytes=1000-1999"})
        check(here, blob, 1000, 2000)
        across = asyncio.create_task(client.get(upstream.blob(blob), {"Range": f"bytes={MIB}-{3 * MIB - 1}"}))
        beyond = asyncio.create_task(client.get(upstream.blob(blob), {"Range": f"bytes={3 * MIB}-"}))
        await asyncio.wait([across, beyond], timeout=0.3)
        valve.open()
        check(await across, blob, MIB, 3 * MIB)
        check(await beyond, blob, 3 * MIB, 4 * MIB)
        assert await read_rest(answer) == (blob.content, True)
    assert len([seen for seen in upstream.registry.of_blob(blob) if seen.range is None]) == 1


async def fetch_chunk(client: Client, target: str, first: int, size: int) -> bytes:
    """Fetch a chunk as containerd does: request an open-ended range, disconnect after *size* bytes."""
    async with client.open(target, {"Range": f"bytes={first}-"}) as answer:
        assert answer.status == 206
        assert answer.headers["Content-Range"].startswith(f"bytes {first}-")
        return await answer.content.readexactly(size)


@pytest.mark.parametrize("warm", [False, True])
async def test_parallel_open_ended_ranges(client: Client, upstream: Upstream, warm: bool) -> None:
    """Eight open-ended ranges at once, each disconnected after its chunk: right bytes, at most two transfers."""
    blob = upstream.publish_blob(Blob.noise(8 * MIB))
    if warm:
        await client.get(upstream.blob(blob))
    chunks = await asyncio.gather(*(fetch_chunk(client, upstream.blob(blob), n * MIB, MIB) for n in range(8)))
    assert b"".join(chunks) == blob.content
    reply = await client.get(upstream.blob(blob))
    assert (reply.whole, reply.body) == (True, blob.content)
    assert transferred(upstream.registry, blob) <= (1 if warm else 2) * blob.size


async def test_parallel_chunks_share_one_download(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """The chunks come from one download in progress; disconnecting after a chunk is not logged as an error."""
    blob = upstream.publish_blob(Blob.noise(16 * MIB))
    upstream.registry.inject(Slow(32 * MIB))
    said = len(mirror.events())
    async with client.open(upstream.blob(blob), {"Range": "bytes=0-"}) as first:
        assert (first.status, first.headers["Content-Length"]) == (206, str(blob.size))
        chunks = await asyncio.gather(
            *(fetch_chunk(client, upstream.blob(blob), n * 2 * MIB, 2 * MIB) for n in range(1, 8))
        )
        chunks.insert(0, await first.content.readexactly(2 * MIB))
    assert b"".join(chunks) == blob.content
    assert [seen.range for seen in upstream.registry.of_blob(blob)] == [None]
    await wait_until_cached(client, upstream.blob(blob))
    assert transferred(upstream.registry, blob) == blob.size
    assert {event["level"] for event in mirror.events()[said:]} <= {"debug", "info"}


async def test_lazy_snapshotter_requests(client: Client, upstream: Upstream) -> None:
    """stargz sends two bytes, HEAD, then many small ranges all over a blob that no client has pulled."""
    blob = upstream.publish_blob(Blob.noise(4 * MIB))
    target = upstream.blob(blob)
    check(await client.get(target, {"Range": "bytes=0-1"}), blob, 0, 2)
    assert (await client.head(target)).length == blob.size
    for first in (4 * MIB - 50_000, 0, 2 * MIB, 4 * MIB - 100, 17):
        stop = min(first + 50_000, blob.size)
        check(await client.get(target, {"Range": f"bytes={first}-{stop - 1}"}), blob, first, stop)
    check(await client.get(target, {"Range": "bytes=0-1"}), blob, 0, 2)
    assert transferred(upstream.registry, blob) <= 2 * blob.size
