"""Limit of concurrent blob downloads per upstream, and fairness between the repositories that wait for it."""

import asyncio
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Self

import pytest

from tests.fake.answers import Valve
from tests.fake.content import Blob, image
from tests.fake.faults import Cut, Hold, Status
from tests.fake.journal import Ending, Journal
from tests.fake.registry import Registry
from tests.http.client import Client, Reply, poll_until, wait_until_cached
from tests.http.upstreams import Upstream
from tests.real.mirror import Mirror
from tests.real.mirror import mirror as running_mirror
from tests.real.program import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20
AT_ONCE = 16
MANY = 500
CONFIG = """
[cache]
max_size = "16MiB"
[timeouts]
first_byte = "60s"
shutdown = "2s"
"""
UPSTREAM = f"connections = {AT_ONCE}"


def bodies(journal: Journal) -> int:
    """Return the number of blobs being sent at this moment."""
    return sum(
        seen.ending is Ending.RUNNING and seen.method == "GET" and fnmatchcase(seen.path, "*/blobs/*")
        for seen in journal.entries
    )


class Watch:
    """Records the maximum of concurrently sent blobs while a block lasts."""

    def __init__(self, upstream: Upstream) -> None:
        self._journal = upstream.registry.journal
        self._task: asyncio.Task[None] | None = None
        self.most = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._journal.until(self._never, within=60))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _never(self, journal: Journal) -> bool:
        self.most = max(self.most, bodies(journal))
        return False


async def waiting_blobs(mirror: Mirror, upstream: Upstream) -> float:
    """Return the number of blobs that wait for a slot, according to /metrics."""
    name = f'mirror_upstream_blobs{{state="waiting",upstream="{upstream.name}"}}'
    return (await mirror.metrics())[name]


async def wait_until_queued(mirror: Mirror, upstream: Upstream, count: int) -> None:
    """Wait until that many blobs wait for a slot."""

    async def enough() -> bool:
        return await waiting_blobs(mirror, upstream) >= count

    await eventually(enough, within=30)


async def test_waiting_downloads_share_the_slots(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """Of 500 blobs 16 at a time are sent; another repository's blob comes in between, its manifest at once."""
    other = Upstream(upstream.name, upstream.registry, "other/app")
    manifest = other.publish(image(100), "v1")
    blobs_waiting = [upstream.publish_blob(Blob.noise(1000)) for _ in range(MANY)]
    valve = Valve()
    upstream.registry.inject(Hold(valve, at=500), "*/team/app/blobs/*")
    async with Watch(upstream) as watch:
        pulls = [asyncio.create_task(client.get(upstream.blob(blob))) for blob in blobs_waiting]
        await wait_until_queued(mirror, upstream, MANY - AT_ONCE)
        lone = asyncio.create_task(client.get(other.blob(manifest.blobs[1])))
        await wait_until_queued(mirror, upstream, MANY - AT_ONCE + 1)
        began = time.monotonic()
        assert (await client.get(other.manifest("v1"))).body == manifest.content
        assert (await client.head(other.blob(manifest.blobs[0]))).status == 200
        assert (await client.get("/healthz")).status == 200
        assert time.monotonic() - began < 2
        assert bodies(upstream.registry.journal) == AT_ONCE
        valve.open()
        assert (await lone).body == manifest.blobs[1].content
        replies = await asyncio.gather(*pulls)
    assert [reply.body for reply in replies] == [blob.content for blob in blobs_waiting]
    assert watch.most == AT_ONCE
    order = [seen.path for seen in upstream.registry.journal.of("GET", "*/blobs/*")]
    assert len(order) == MANY + 1
    assert order.index(f"/v2/other/app/blobs/{manifest.blobs[1].digest}") <= AT_ONCE + 1
    assert await waiting_blobs(mirror, upstream) == 0


async def test_slots_are_released_after_every_failure(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """After interrupted, refused, wrong and rate limited downloads, the limit is as before."""
    for fault in (Cut(at=10), Status(404), Status(500), Status(429)):
        blobs = [upstream.publish_blob(Blob.noise(1000)) for _ in range(2 * AT_ONCE)]
        upstream.registry.inject(fault, "*/blobs/*")
        async with Watch(upstream) as watch:
            await asyncio.gather(*(client.get(upstream.blob(blob)) for blob in blobs))
        assert watch.most <= AT_ONCE
        upstream.registry.heal()

        async def works() -> Reply:
            return await client.get(upstream.blob(upstream.publish_blob(Blob.noise(1000))))

        await poll_until(works, lambda reply: reply.status == 200)
    valve = Valve()
    blobs = [upstream.publish_blob(Blob.noise(1000)) for _ in range(AT_ONCE)]
    upstream.registry.inject(Hold(valve, at=500), "*/blobs/*")
    pulls = [asyncio.create_task(client.get(upstream.blob(blob))) for blob in blobs]
    await upstream.registry.journal.until(lambda journal: bodies(journal) == AT_ONCE)
    valve.open()
    assert [reply.body for reply in await asyncio.gather(*pulls)] == [blob.content for blob in blobs]


async def test_unstored_streams_use_half_of_the_slots(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """They run at the pace of their clients, so half of the slots are reserved for stored downloads."""
    large = [upstream.publish_blob(Blob.noise(20 * MIB)) for _ in range(AT_ONCE)]
    small = upstream.publish_blob(Blob.noise(1000))
    async with asyncio.TaskGroup() as clients:
        leave = asyncio.Event()

        async def read_nothing(blob: Blob) -> None:
            async with client.open(upstream.blob(blob)) as answer:
                assert answer.status == 200
                await leave.wait()

        for blob in large:
            clients.create_task(read_nothing(blob))
        await wait_until_queued(mirror, upstream, AT_ONCE // 2)
        await upstream.registry.journal.until(lambda journal: bodies(journal) == AT_ONCE // 2)
        assert (await client.get(upstream.blob(small))).body == small.content
        leave.set()


async def test_right_to_a_blob_needs_no_slot(client: Client, upstream: Upstream) -> None:
    """All slots are taken and the storage refuses HEAD: stored content and sizes are served at once."""
    other = Upstream(upstream.name, upstream.registry, "other/app")
    blob = upstream.publish_blob(Blob.noise(1000))
    other.publish_blob(blob)
    assert (await client.get(upstream.blob(blob))).body == blob.content
    await wait_until_cached(client, upstream.blob(blob))
    held = [upstream.publish_blob(Blob.noise(100_000)) for _ in range(AT_ONCE)]
    upstream.registry.inject(Status(403), "*/blobs/*", method="HEAD")
    for one in held:
        upstream.registry.inject(Hold(at=500), f"*/blobs/{one.digest}")
    async with asyncio.TaskGroup() as clients:
        leave = asyncio.Event()

        async def follow(blob: Blob) -> None:
            async with client.open(upstream.blob(blob)):
                await leave.wait()

        for one in held:
            clients.create_task(follow(one))
        await upstream.registry.journal.until(lambda journal: bodies(journal) == AT_ONCE)
        cold = upstream.publish_blob(Blob.noise(2000))
        began = time.monotonic()
        assert (await client.get(other.blob(blob))).body == blob.content
        assert (await client.head(upstream.blob(cold))).length == cold.size
        assert time.monotonic() - began < 2
        leave.set()


async def test_outage_is_reported_without_a_slot(client: Client, upstream: Upstream) -> None:
    """All slots are taken by stalled downloads: a request to an upstream that is down still fails at once."""
    held = [upstream.publish_blob(Blob.noise(100_000)) for _ in range(AT_ONCE)]
    upstream.registry.inject(Hold(at=500), "*/blobs/*")
    async with asyncio.TaskGroup() as clients:
        leave = asyncio.Event()

        async def follow(blob: Blob) -> None:
            async with client.open(upstream.blob(blob)):
                await leave.wait()

        for blob in held:
            clients.create_task(follow(blob))
        await upstream.registry.journal.until(lambda journal: bodies(journal) == AT_ONCE)
        upstream.registry.inject(Status(503, {"Retry-After": "60"}), "*/manifests/*")
        assert (await client.get(upstream.manifest("v1"))).status == 503
        reply = await client.get(upstream.blob(upstream.publish_blob(Blob.noise(1000))))
        assert (reply.status, "next attempt" in str(reply.error["message"])) == (503, True)
        leave.set()


async def test_timeout_while_waiting_for_a_slot_is_reported(tmp_path: Path) -> None:
    """A client of an unstored stream gets a message about the limit; a download keeps waiting, and is stored later."""
    config = tmp_path / "mirror.toml"
    async with Registry.running() as registry:
        lines = f'[upstreams."r.test"]\nurl = "{registry.url}"\nconnections = 2\n'
        config.write_text('[cache]\nmax_size = "8MiB"\n[timeouts]\nfirst_byte = "1s"\n' + lines)
        upstream = Upstream("r.test", registry)
        large = [upstream.publish_blob(Blob.noise(20 * MIB)) for _ in range(2)]
        small = [upstream.publish_blob(Blob.noise(1000)) for _ in range(2)]
        valve = Valve()
        async with (
            running_mirror(tmp_path, "--config", str(config)) as mirror,
            Client.of(mirror.url) as client,
            client.open(upstream.blob(large[0])) as streamed,
        ):
            assert streamed.status == 200
            refused = await client.get(upstream.blob(large[1]))
            assert (refused.status, "connections above 2" in str(refused.error["message"])) == (503, True), refused
            registry.inject(Hold(valve, at=500), f"*/{small[0].digest}")
            first = asyncio.create_task(client.get(upstream.blob(small[0])))
            await valve.reached()
            assert (await client.get(upstream.blob(small[1]))).status == 504
            assert not registry.of_blob(small[1])
            valve.open()
            assert (await first).body == small[0].content
            await wait_until_cached(client, upstream.blob(small[1]))
            assert len(registry.of_blob(small[1])) == 1
