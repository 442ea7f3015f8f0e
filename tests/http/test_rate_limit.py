"""What an upstream says of its limits is heeded: pulls that are left, and when to come back."""

import asyncio
import time

import pytest

from tests.fake.content import Manifest, image
from tests.fake.faults import Fault, Header, Status
from tests.fake.registry import Registry
from tests.http.client import Client, settled
from tests.http.upstreams import IMPATIENT, Upstream
from tests.real.mirror import Mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = IMPATIENT + '[tags]\nfresh_for = "0s"\nfresh_when_low = "1h"\n'


def left(upstream: Upstream, pulls: int, window: int = 21600, limit: int = 100) -> None:
    """From now on upstream says that so many pulls are left, as Docker Hub does."""
    upstream.registry.heal()
    upstream.registry.inject(Header("ratelimit-limit", f"{limit};w={window}"), "*/manifests/*")
    upstream.registry.inject(Header("ratelimit-remaining", f"{pulls};w={window}"), "*/manifests/*")


async def told(mirror: Mirror, upstream: Upstream) -> tuple[float | None, float | None]:
    """Pulls left and granted, as /metrics has them."""
    metrics = await mirror.metrics()
    found = [metrics.get(f'mirror_upstream_pulls_{what}{{upstream="{upstream.name}"}}') for what in ("left", "limit")]
    return found[0], found[1]


async def is_asked(client: Client, upstream: Upstream, manifest: Manifest) -> bool:
    """Whether upstream hears of a pull by tag."""
    before = len(upstream.registry.journal)
    assert (await client.get(upstream.manifest("v1"))).body == manifest.content
    return len(upstream.registry.journal) > before


async def test_what_is_left_is_shown(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """Of each manifest's answer, to GET and to HEAD; nothing where upstream says nothing."""
    manifest = upstream.publish(image(100), "v1")
    await client.get(upstream.manifest("v1"))
    assert await told(mirror, upstream) == (None, None)
    left(upstream, 76)
    assert await is_asked(client, upstream, manifest)
    assert await told(mirror, upstream) == (76, 100)
    assert [seen.method for seen in upstream.registry.of_manifest("v1")] == ["GET", "HEAD"]
    left(upstream, 75, limit=200)
    await client.get(upstream.manifest(upstream.publish(image(100))))
    assert await told(mirror, upstream) == (75, 200)


async def test_tags_hold_longer_while_few_pulls_are_left(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """Below a tenth, from the next pull on; for this upstream only, and until it says that there are more again."""
    manifest = upstream.publish(image(100), "v1")
    for pulls in (100, 10):
        left(upstream, pulls)
        await client.get(upstream.manifest("v1"))
        assert await is_asked(client, upstream, manifest)
    left(upstream, 9)
    assert await is_asked(client, upstream, manifest)
    for _ in range(3):
        assert not await is_asked(client, upstream, manifest)
    assert (await client.head(upstream.manifest("v1"))).cache_status == "mirror; hit"
    left(upstream, 50)
    await client.get(upstream.manifest(upstream.publish(image(100))))
    assert await told(mirror, upstream) == (50, 100)
    assert await is_asked(client, upstream, manifest)


async def test_one_upstreams_limit_is_not_anothers(client: Client, upstream: Upstream, hub: Registry) -> None:
    """Who has none is asked as ever, while another one has hardly any pulls left."""
    hub.publish("library/low", image(10), "v1")
    hub.inject(Header("ratelimit-remaining", "0;w=21600"))
    for _ in range(2):
        assert (await client.get("/v2/library/low/manifests/v1")).status == 200
    assert len(hub.journal) == 1
    manifest = upstream.publish(image(100), "v1")
    await client.get(upstream.manifest("v1"))
    assert await is_asked(client, upstream, manifest)


async def test_a_refusal_counts_too(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """A 429 says that none are left."""
    upstream.publish(image(100), "v1")
    gone: Fault = Status(429, {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "0;w=21600"})
    upstream.registry.inject(gone)
    assert (await client.get(upstream.manifest("v1"))).status == 429
    assert await told(mirror, upstream) == (0, 100)


async def test_what_was_said_is_forgotten_with_its_window(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """Then tags are asked for as usual, and the figures show nothing that nobody knows."""
    manifest = upstream.publish(image(100), "v1")
    left(upstream, 1, window=2)
    await client.get(upstream.manifest("v1"))
    assert not await is_asked(client, upstream, manifest)
    upstream.registry.heal()
    asked = len(upstream.registry.journal)
    await settled(lambda: client.get(upstream.manifest("v1")), lambda _: len(upstream.registry.journal) > asked)
    assert await told(mirror, upstream) == (None, None)


async def test_nonsense_is_no_limit(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """Whatever the headers hold, the manifest is served."""
    manifest = upstream.publish(image(100), "v1")
    upstream.registry.inject(Header("ratelimit-remaining", "a few"))
    upstream.registry.inject(Header("ratelimit-limit", "-1;w=;;,"))
    assert (await client.get(upstream.manifest("v1"))).body == manifest.content
    assert await told(mirror, upstream) == (None, None)


async def test_an_upstream_that_says_when_to_come_back_is_asked_then(client: Client, upstream: Upstream) -> None:
    """One 503 with Retry-After is enough: nobody asks before, clients hear the time, and then all is well."""
    manifest = upstream.publish(image(100), "v1")
    upstream.registry.inject(Status(503, {"Retry-After": "3"}), times=1)
    began = time.monotonic()
    reply = await client.get(upstream.manifest("v1"))
    assert (reply.status, reply.headers["Retry-After"]) == (503, "3")
    while time.monotonic() - began < 2:
        assert (await client.get(upstream.manifest("v1"))).status == 503
        assert (await client.get(upstream.blob(manifest.blobs[0]))).status == 503
        assert len(upstream.registry.journal) == 1
        await asyncio.sleep(0.1)
    await settled(lambda: client.get(upstream.manifest("v1")), lambda reply: reply.status == 200)
    assert time.monotonic() - began >= 2.9
    assert (await client.get(upstream.blob(manifest.blobs[0]))).status == 200
