"""Many bad clients at once: the mirror keeps answering, uses little memory for them, and leaks nothing."""

import asyncio
import resource
import time
from collections.abc import Iterator

import pytest

from tests.fake.content import Blob
from tests.http.client import Client, wait_until_cached
from tests.http.many_clients import ManyClients, pull_concurrently
from tests.http.resources import MIB, descriptors, resident
from tests.http.upstreams import CALM, Upstream
from tests.real.mirror import Mirror
from tests.real.program import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = CALM + '[limits]\nhead = "5s"\n'
IDLE, SLOW_TO_ASK, SLOW_TO_READ, COLD, FLOODING = 2000, 200, 200, 300, 20
KEPT = 64  # idle upstream connections kept for the next blob
EACH = 64 * 2**10  # bytes of memory per connection
LATEST = 2.0  # seconds for /healthz: the goal is 100 ms, but this machine is busy


@pytest.fixture(autouse=True)
def many_descriptors() -> Iterator[None]:
    """Raise the descriptor limit of this process, which opens the connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def watch_health(client: Client, seconds: list[float]) -> None:
    """Request /healthz repeatedly."""
    while True:
        began = time.perf_counter()
        reply = await client.get("/healthz")
        assert reply.status == 200, reply
        seconds.append(time.perf_counter() - began)
        await asyncio.sleep(0.05)


async def test_mirror_survives_thousands_of_bad_clients(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """Two thousand idle, two hundred slow senders, as many slow readers, hundreds of cold pulls, header floods."""
    pid = mirror.program.pid
    large = upstream.publish_blob(Blob.noise(16 * MIB))
    assert (await client.get(upstream.blob(large))).whole
    await wait_until_cached(client, upstream.blob(large))
    cold = [upstream.publish_blob(Blob.noise(20_000 + number)) for number in range(COLD)]
    files, memory = descriptors(pid), resident(pid)
    took: list[float] = []
    async with ManyClients.before(mirror) as clients:
        watching = asyncio.create_task(watch_health(client, took))
        await clients.idle(IDLE)
        assert resident(pid) - memory < IDLE * EACH
        await clients.slow_to_ask(SLOW_TO_ASK)
        await clients.slow_to_read(SLOW_TO_READ, upstream.blob(large))
        assert resident(pid) - memory < (IDLE + SLOW_TO_ASK + SLOW_TO_READ) * EACH
        await clients.flooding(FLOODING)
        assert await pull_concurrently(client, map(upstream.blob, cold)) == COLD
        assert resident(pid) - memory < (IDLE + SLOW_TO_ASK + SLOW_TO_READ + COLD) * EACH + 64 * MIB
        watching.cancel()
        await asyncio.wait([watching])
        assert watching.cancelled(), watching.exception()
    assert len(took) > 10
    assert max(took) < LATEST, sorted(took)[-5:]

    async def nothing_is_left() -> bool:
        return descriptors(pid) <= files + KEPT + 2

    await eventually(nothing_is_left, within=20)
