"""One download for any number of readers, each of whom streams, leaves or dawdles without the others noticing."""

import asyncio

import pytest

from tests.fake.answers import Valve
from tests.fake.content import Blob, image
from tests.fake.faults import Hold
from tests.fake.journal import Ending
from tests.http.client import WITHIN, Client, rest_of
from tests.http.upstreams import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20
AT_ONCE = 64  # blobs that are fetched from one upstream, by default


def held(upstream: Upstream, size: int, at: int) -> tuple[Blob, Valve]:
    """A new blob of which upstream sends *at* bytes and then waits."""
    blob = upstream.publish_blob(Blob.noise(size))
    valve = Valve()
    upstream.registry.inject(Hold(valve, at=at))
    return blob, valve


async def status_of(client: Client, target: str) -> int:
    """The status, as soon as the headers are there."""
    async with client.open(target) as answer:
        return answer.status


async def test_fifty_at_once_are_one_request_upstream(client: Client, upstream: Upstream) -> None:
    """Fifty cold GETs of one digest: one GET upstream, fifty whole blobs."""
    blob = upstream.publish_blob(Blob.noise(2 * MIB))
    replies = await asyncio.gather(*(client.get(upstream.blob(blob)) for _ in range(50)))
    assert all((reply.status, reply.whole, reply.body) == (200, True, blob.content) for reply in replies)
    assert len(upstream.registry.of_blob(blob)) == 1
    assert sum(seen.sent for seen in upstream.registry.of_blob(blob)) == blob.size


async def test_nobody_gets_a_status_before_upstreams_first_byte(client: Client, upstream: Upstream) -> None:
    """200 and then nothing is what clients can't recover from."""
    blob, valve = held(upstream, MIB, at=0)
    asking = [asyncio.create_task(status_of(client, upstream.blob(blob))) for _ in range(2)]
    await valve.reached()
    done, _ = await asyncio.wait(asking, timeout=0.4)
    assert not done
    valve.open()
    assert await asyncio.gather(*asking) == [200, 200]


async def test_a_follower_streams_while_the_blob_arrives(client: Client, upstream: Upstream) -> None:
    """Who comes at half-time has the first half at once, from the start, though upstream holds the second."""
    blob, valve = held(upstream, 8 * MIB, at=4 * MIB)
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
                assert await rest_of(answer) == (blob.content[3 * MIB :], True)
    assert len(upstream.registry.of_blob(blob)) == 1


async def test_one_who_leaves_takes_nothing_along(client: Client, upstream: Upstream) -> None:
    """The first asker leaves at a tenth; the second has everything, from the same one request."""
    blob, valve = held(upstream, 4 * MIB, at=2 * MIB)
    async with client.open(upstream.blob(blob)) as leader:
        await leader.content.readexactly(400_000)
        follower = asyncio.create_task(client.get(upstream.blob(blob)))
        await valve.reached()
    valve.open()
    reply = await follower
    assert (reply.status, reply.whole, reply.body) == (200, True, blob.content)
    (seen,) = upstream.registry.of_blob(blob)
    assert seen.ending is Ending.COMPLETE


async def test_a_download_outlives_all_who_asked(client: Client, upstream: Upstream) -> None:
    """The only asker leaves; the blob is in the cache soon after."""
    blob, valve = held(upstream, 4 * MIB, at=2 * MIB)
    async with client.open(upstream.blob(blob)) as leader:
        await leader.content.readexactly(10)
    valve.open()
    await upstream.registry.journal.until(lambda seen: seen.entries[0].ending is Ending.COMPLETE)
    reply = await client.get(upstream.blob(blob))
    assert (reply.status, reply.body) == (200, blob.content)
    assert len(upstream.registry.of_blob(blob)) == 1


async def test_one_who_leaves_before_the_headers(client: Client, upstream: Upstream) -> None:
    """Gone before any answer: the download goes on all the same."""
    blob, valve = held(upstream, MIB, at=0)
    asking = asyncio.create_task(client.get(upstream.blob(blob)))
    await valve.reached()
    asking.cancel()
    await asyncio.wait([asking])
    valve.open()
    await upstream.registry.journal.until(lambda seen: seen.entries[0].ending is Ending.COMPLETE)
    assert (await client.get(upstream.blob(blob))).body == blob.content
    assert len(upstream.registry.of_blob(blob)) == 1


async def test_one_who_dawdles_holds_up_nobody(client: Client, upstream: Upstream) -> None:
    """A reader that doesn't read: another is served to the end meanwhile, and the first still gets all."""
    blob = upstream.publish_blob(Blob.noise(24 * MIB))
    async with client.open(upstream.blob(blob)) as slow:
        reply = await client.get(upstream.blob(blob))
        assert (reply.whole, reply.body) == (True, blob.content)
        assert upstream.registry.of_blob(blob)[0].ending is Ending.COMPLETE
        assert await rest_of(slow) == (blob.content, True)
    assert len(upstream.registry.of_blob(blob)) == 1


async def test_readers_come_at_any_time(client: Client, upstream: Upstream) -> None:
    """Thirty that come one after another while the blob arrives and after: one request, right bytes."""
    blob, valve = held(upstream, 2 * MIB, at=MIB)
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


async def test_a_cold_head_beside_a_running_download(client: Client, upstream: Upstream) -> None:
    """HEAD of a blob that is arriving is answered while it arrives."""
    blob, valve = held(upstream, 2 * MIB, at=MIB)
    asking = asyncio.create_task(client.get(upstream.blob(blob)))
    await valve.reached()
    reply = await client.head(upstream.blob(blob))
    assert (reply.status, reply.length, reply.headers["Docker-Content-Digest"]) == (200, blob.size, blob.digest)
    valve.open()
    assert (await asking).body == blob.content
    assert len(upstream.registry.of_blob(blob)) == 1


async def test_a_crowd_of_slow_downloads_is_no_outage(client: Client, upstream: Upstream) -> None:
    """A hundred and fifty layers trickle in: upstream is well, and whatever else is asked of it is answered."""
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


async def test_downloads_do_not_wait_for_each_other(client: Client, upstream: Upstream) -> None:
    """Twenty blobs hang upstream; the twenty-first is served."""
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
