"""The deadline of a pull applies to all its upstream requests together."""

import asyncio
import time

import pytest

from tests.fake.answers import Valve
from tests.fake.content import Blob, image
from tests.fake.faults import Hold, Status
from tests.http.client import Client, Reply
from tests.http.upstreams import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = """
[tags]
fresh_for = "0s"
[timeouts]
first_byte = "2s"
shutdown = "2s"
"""
SLOW = 1.8  # seconds, within the first-byte timeout
WITHIN = 3.5  # seconds; two requests of that length would take longer


async def timed(client: Client, method: str, target: str) -> tuple[Reply, float]:
    """Return a reply, and the seconds it took."""
    began = time.monotonic()
    reply = await client.ask(method, target)
    return reply, time.monotonic() - began


async def test_slow_head_and_slow_get_share_one_deadline(client: Client, upstream: Upstream) -> None:
    """HEAD is refused slowly, GET gets no response: the client gets an error soon, for every kind of request."""
    upstream.publish(image(10), "v1")
    assert (await client.get(upstream.manifest("v1"))).status == 200
    cold = upstream.publish(image(20), "v2")
    refusing = Valve()
    upstream.registry.inject(Status(405), method="HEAD")
    upstream.registry.inject(Hold(refusing), method="HEAD")
    upstream.registry.inject(Hold(), method="GET")
    asked = [
        ("GET", upstream.manifest("v1")),
        ("HEAD", upstream.manifest("v1")),
        ("HEAD", upstream.manifest("v2")),
        ("HEAD", upstream.manifest(cold)),
        ("HEAD", upstream.blob(Blob.noise(10))),
    ]
    asking = [asyncio.create_task(timed(client, method, target)) for method, target in asked]
    await refusing.reached()
    asyncio.get_running_loop().call_later(SLOW, refusing.open)
    for (method, target), (reply, seconds) in zip(asked, await asyncio.gather(*asking), strict=True):
        assert reply.status == (200 if "Warning" in reply.headers else 504), f"{method} {target}: {reply}"
        assert seconds < WITHIN, f"{method} {target}: {reply.status} after {seconds:.1f} s"
