"""A crowd of bad clients: the mirror answers through it, takes little memory for it, and keeps nothing of it."""

import asyncio
import resource
import time
from collections.abc import Iterator

import pytest

from tests.fake.content import Blob
from tests.http.client import Client, kept
from tests.http.crowd import Crowd, pulled_at_once
from tests.http.resources import MIB, descriptors, resident
from tests.http.upstreams import CALM, Upstream
from tests.real.mirror import Mirror
from tests.real.program import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = CALM + '[limits]\nhead = "5s"\n'
IDLE, SLOW_TO_ASK, SLOW_TO_READ, COLD, FLOODING = 2000, 200, 200, 300, 20
KEPT = 64  # connections to an upstream that are kept for the next blob
EACH = 64 * 2**10  # bytes that a connection may take
LATEST = 2.0  # seconds for the health endpoint to answer: 100 ms is the aim, and this machine is not idle


@pytest.fixture(autouse=True)
def many_descriptors() -> Iterator[None]:
    """For the crowd, which lives in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def watched(client: Client, seconds: list[float]) -> None:
    """Ask for the health, again and again."""
    while True:
        began = time.perf_counter()
        reply = await client.get("/healthz")
        assert reply.status == 200, reply
        seconds.append(time.perf_counter() - began)
        await asyncio.sleep(0.05)


async def test_a_crowd(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """Two thousand idle, two hundred slow to ask, as many slow to read, hundreds of cold pulls, floods of headers."""
    pid = mirror.program.pid
    large = upstream.publish_blob(Blob.noise(16 * MIB))
    assert (await client.get(upstream.blob(large))).whole
    await kept(client, upstream.blob(large))
    cold = [upstream.publish_blob(Blob.noise(20_000 + number)) for number in range(COLD)]
    files, memory = descriptors(pid), resident(pid)
    took: list[float] = []
    async with Crowd.before(mirror) as crowd:
        watching = asyncio.create_task(watched(client, took))
        await crowd.idle(IDLE)
        assert resident(pid) - memory < IDLE * EACH
        await crowd.slow_to_ask(SLOW_TO_ASK)
        await crowd.slow_to_read(SLOW_TO_READ, upstream.blob(large))
        assert resident(pid) - memory < (IDLE + SLOW_TO_ASK + SLOW_TO_READ) * EACH
        await crowd.flooding(FLOODING)
        assert await pulled_at_once(client, map(upstream.blob, cold)) == COLD
        assert resident(pid) - memory < (IDLE + SLOW_TO_ASK + SLOW_TO_READ + COLD) * EACH + 64 * MIB
        watching.cancel()
        await asyncio.wait([watching])
        assert watching.cancelled(), watching.exception()
    assert len(took) > 10
    assert max(took) < LATEST, sorted(took)[-5:]

    async def nothing_is_left() -> bool:
        return descriptors(pid) <= files + KEPT + 2

    await eventually(nothing_is_left, within=20)
