"""One download per blob for any number of readers, which stream, disconnect or stall independently."""

import asyncio

import pytest

from tests.fake.answers import Valve
from tests.fake.content import Blob, image
from tests.fake.faults import Hold
from tests.fake.journal import Ending
from tests.http.client import WITHIN, Client, read_rest
from tests.http.upstreams import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20
AT_ONCE = 64  # default limit of concurrent blob downloads per upstream


def hold_blob(upstream: Upstream, size: int, at: int) -> tuple[Blob, Valve]:
    """Publish a blob of which upstream sends *at* bytes and then blocks."""
    blob = upstream.publish_blob(Blob.noise(size))
    valve = Valve()
    upstream.registry.inject(Hold(valve, at=at))
    return blob, valve


async def status_of(client: Client, target: str) -> int:
    """Return the status as soon as the headers are received."""
    async with client.open(target) as answer:
        return answer.status


async def test_concurrent_pulls_are_one_upstream_request(client: Client, upstream: Upstream) -> None:
    """Fifty cold GETs of one digest: one GET upstream, fifty complete blobs."""
    blob = upstream.publish_blob(Blob.noise(2 * MIB))
    replies = await asyncio.gather(*(client.get(upstream.blob(blob)) for _ in range(50)))
    assert all((reply.status, reply.whole, reply.body) == (200, True, blob.content) for reply in replies)
    assert len(upstream.registry.of_blob(blob)) == 1
    assert sum(seen.sent for seen in upstream.registry.of_blob(blob)) == blob.size


async def test_no_status_before_upstreams_first_byte(client: Client, upstream: Upstream) -> None:
    """Clients cannot recover from a 200 without a body."""
    blob, valve = hold_blob(upstream, MIB, at=0)
    asking = [asyncio.create_task(status_of(client, upstream.blob(blob))) for _ in range(2)]
    await valve.reached()
    done, _ = await asyncio.wait(asking, timeout=0.4)
    assert not done
    valve.open()
    assert await asyncio.gather(*asking) == [200, 200]


async def test_second_reader_joins_a_running_download(client: Client, upstream: Upstream) -> None:
    """A reader that joins at half-time gets the first half at once, while upstream holds the second."""
    blob, valve = hold_blob(upstream, 8 * MIB, at=4 * MIB)
    async with client.open(upstream.blob(blob)) as leader:
        assert leader.headers["Cache-Status"] == "mirror; fwd=uri-miss; stored"
        first = await leader.content.readexactly(3 * MIB)
        await valve.reached()
        async with client.open(upstream.blob(blob)) as follower:
            assert follower.headers["Cache-Status"] == "mirror; fwd=uri-miss; collapsed"
            assert int(follower.headers["Content-Length"]) == blob.size
            head = await follower.content.readexactly(3 * MIB)
            assert head == first == blob.content[: 3 * MIB]
            valve.open()
            for answer in (leader, follower):
                assert await read_rest(answer) == (blob.content[3 * MIB :], True)
    assert len(upstream.registry.of_blob(blob)) == 1


async def test_disconnect_of_the_first_reader_does_not_stop_the_download(client: Client, upstream: Upstream) -> None:
    """The first reader disconnects at a tenth; the second gets the whole blob from the same request."""
    blob, valve = hold_blob(upstream, 4 * MIB, at=2 * MIB)
    async with client.open(upstream.blob(blob)) as leader:
        await leader.content.readexactly(400_000)
        follower = asyncio.create_task(client.get(upstream.blob(blob)))
        await valve.reached()
    valve.open()
    reply = await follower
    assert (reply.status, reply.whole, reply.body) == (200, True, blob.content)
    (seen,) = upstream.registry.of_blob(blob)
    assert seen.ending is Ending.COMPLETE


async def test_download_completes_without_readers(client: Client, upstream: Upstream) -> None:
    """The only reader disconnects; the blob is stored soon after."""
    blob, valve = hold_blob(upstream, 4 * MIB, at=2 * MIB)
    async with client.open(upstream.blob(blob)) as leader:
        await leader.content.readexactly(10)
    valve.open()
    await upstream.registry.journal.until(lambda seen: seen.entries[0].ending is Ending.COMPLETE)
    reply = await client.get(upstream.blob(blob))
    assert (reply.status, reply.body) == (200, blob.content)
    assert len(upstream.registry.of_blob(blob)) == 1


async def test_disconnect_before_the_headers_does_not_stop_the_download(client: Client, upstream: Upstream) -> None:
    """The only reader disconnects before the response; the download continues."""
    blob, valve = hold_blob(upstream, MIB, at=0)
    asking = asyncio.create_task(client.get(upstream.blob(blob)))
    await valve.reached()
    asking.cancel()
    await asyncio.wait([asking])
    valve.open()
    await upstream.registry.journal.until(lambda seen: seen.entries[0].ending is Ending.COMPLETE)
    assert (await client.get(upstream.blob(blob))).body == blob.content
    assert len(upstream.registry.of_blob(blob)) == 1


async def test_stalled_reader_does_not_block_others(client: Client, upstream: Upstream) -> None:
    """While one reader does not read, another gets the whole blob; the first still gets everything later."""
    blob = upstream.publish_blob(Blob.noise(24 * MIB))
    async with client.open(upstream.blob(blob)) as slow:
        reply = await client.get(upstream.blob(blob))
        assert (reply.whole, reply.body) == (True, blob.content)
        assert upstream.registry.of_blob(blob)[0].ending is Ending.COMPLETE
        assert await read_rest(slow) == (blob.content, True)
    assert len(upstream.registry.of_blob(blob)) == 1


async def test_readers_join_at_any_time(client: Client, upstream: Upstream) -> None:
    """Thirty readers join one after another, during the download and after: one request, right bytes."""
    blob, valve = hold_blob(upstream, 2 * MIB, at=MIB)
    readers = []
    for number in range(30):
        readers.append(asyncio.create_task(client.get(upstream.blob(blob))))
        await asyncio.sleep(0)
        if number == 10:
            await valve.reached()
        if number == 20:
            valve.open()
            await readers[0]
    for reply in await asyncio.gather(*readers):
        assert (reply.status, reply.whole, reply.body) == (200, True, blob.content)
    assert len(upstream.registry.of_blob(blob)) == 1


async def test_head_during_a_download(client: Client, upstream: Upstream) -> None:
    """The HEAD of a blob that is being downloaded is answered at once."""
    blob, valve = hold_blob(upstream, 2 * MIB, at=MIB)
    asking = asyncio.create_task(client.get(upstream.blob(blob)))
    await valve.reached()
    reply = await client.head(upstream.blob(blob))
    assert (reply.status, reply.length, reply.headers["Docker-Content-Digest"]) == (200, blob.size, blob.digest)
    valve.open()
    assert (await asking).body == blob.content
    assert len(upstream.registry.of_blob(blob)) == 1


async def test_many_slow_downloads_are_not_an_outage(client: Client, upstream: Upstream) -> None:
    """The upstream stays up with 150 slow layers, and other requests to it are answered."""
    manifest = upstream.publish(image(10), "v1")
    valve = Valve()
    upstream.registry.inject(Hold(valve, at=1000), "*/blobs/*")
    blobs = [upstream.publish_blob(Blob.noise(2000)) for _ in range(150)]
    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(client.get(upstream.blob(blob))) for blob in blobs]
        await upstream.registry.journal.until(lambda seen: len(seen) >= AT_ONCE)
        async with asyncio.timeout(WITHIN / 4):
            assert (await client.get(upstream.manifest("v1"))).body == manifest.content
        valve.open()
    assert [task.result().body for task in asking] == [blob.content for blob in blobs]


async def test_downloads_are_independent(client: Client, upstream: Upstream) -> None:
    """Twenty downloads hang; the twenty-first is served."""
    valve = Valve()
    upstream.registry.inject(Hold(valve, at=1000))
    hanging = [upstream.publish_blob(Blob.noise(2000)) for _ in range(20)]
    asking = [asyncio.create_task(client.get(upstream.blob(blob))) for blob in hanging]
    await upstream.registry.journal.until(lambda seen: len(seen) == 20)
    upstream.registry.heal()
    blob = upstream.publish_blob(Blob.noise(2000))
    async with asyncio.timeout(WITHIN / 4):
        assert (await client.get(upstream.blob(blob))).body == blob.content
    valve.open()
    assert [reply.body for reply in await asyncio.gather(*asking)] == [blob.content for blob in hanging]
