"""Rate limits of an upstream: the remaining pull quota is observed, and Retry-After is respected."""

import asyncio
import time

import pytest

from tests.fake.content import Manifest, image
from tests.fake.faults import Fault, Header, Status
from tests.fake.registry import Registry
from tests.http.client import Client, poll_until
from tests.http.upstreams import IMPATIENT, Upstream
from tests.real.mirror import Mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = IMPATIENT + '[tags]\nfresh_for = "0s"\nfresh_when_low = "1h"\n'


def set_pulls_left(upstream: Upstream, pulls: int, window: int = 21600, limit: int = 100) -> None:
    """Send this remaining pull quota from now on, in Docker Hub's headers."""
    upstream.registry.heal()
    upstream.registry.inject(Header("ratelimit-limit", f"{limit};w={window}"), "*/manifests/*")
    upstream.registry.inject(Header("ratelimit-remaining", f"{pulls};w={window}"), "*/manifests/*")


async def quota_metrics(mirror: Mirror, upstream: Upstream) -> tuple[float | None, float | None]:
    """Return the remaining pulls and the quota, according to /metrics."""
    metrics = await mirror.metrics()
    found = [metrics.get(f'mirror_upstream_pulls_{what}{{upstream="{upstream.name}"}}') for what in ("left", "limit")]
    return found[0], found[1]


async def pull_reaches_upstream(client: Client, upstream: Upstream, manifest: Manifest) -> bool:
    """Return whether a pull by tag causes an upstream request."""
    before = len(upstream.registry.journal)
    assert (await client.get(upstream.manifest("v1"))).body == manifest.content
    return len(upstream.registry.journal) > before


async def test_pull_quota_is_in_the_metrics(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """Taken from responses to GET and HEAD of manifests; absent if upstream does not send it."""
    manifest = upstream.publish(image(100), "v1")
    await client.get(upstream.manifest("v1"))
    assert await quota_metrics(mirror, upstream) == (None, None)
    set_pulls_left(upstream, 76)
    assert await pull_reaches_upstream(client, upstream, manifest)
    assert await quota_metrics(mirror, upstream) == (76, 100)
    assert [seen.method for seen in upstream.registry.of_manifest("v1")] == ["GET", "HEAD"]
    set_pulls_left(upstream, 75, limit=200)
    await client.get(upstream.manifest(upstream.publish(image(100))))
    assert await quota_metrics(mirror, upstream) == (75, 200)


async def test_tags_stay_fresh_longer_with_a_low_quota(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """Below a tenth, from the next pull on; for this upstream only, and until the quota has recovered."""
    manifest = upstream.publish(image(100), "v1")
    for pulls in (100, 10):
        set_pulls_left(upstream, pulls)
        await client.get(upstream.manifest("v1"))
        assert await pull_reaches_upstream(client, upstream, manifest)
    set_pulls_left(upstream, 9)
    assert await pull_reaches_upstream(client, upstream, manifest)
    for _ in range(3):
        assert not await pull_reaches_upstream(client, upstream, manifest)
    assert (await client.head(upstream.manifest("v1"))).cache_status == "mirror; hit"
    set_pulls_left(upstream, 50)
    await client.get(upstream.manifest(upstream.publish(image(100))))
    assert await quota_metrics(mirror, upstream) == (50, 100)
    assert await pull_reaches_upstream(client, upstream, manifest)


async def test_pull_quota_is_per_upstream(client: Client, upstream: Upstream, hub: Registry) -> None:
    """An upstream without a quota is asked as usual while another one has hardly any pulls left."""
    hub.publish("library/low", image(10), "v1")
    hub.inject(Header("ratelimit-remaining", "0;w=21600"))
    for _ in range(2):
        assert (await client.get("/v2/library/low/manifests/v1")).status == 200
    assert len(hub.journal) == 1
    manifest = upstream.publish(image(100), "v1")
    await client.get(upstream.manifest("v1"))
    assert await pull_reaches_upstream(client, upstream, manifest)


async def test_quota_headers_of_a_429_count(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """A 429 reports that no pulls are left."""
    upstream.publish(image(100), "v1")
    gone: Fault = Status(429, {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "0;w=21600"})
    upstream.registry.inject(gone)
    assert (await client.get(upstream.manifest("v1"))).status == 429
    assert await quota_metrics(mirror, upstream) == (0, 100)


async def test_pull_quota_expires_with_its_window(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """Afterwards tags are revalidated as usual, and the metrics show no quota."""
    manifest = upstream.publish(image(100), "v1")
    set_pulls_left(upstream, 1, window=2)
    await client.get(upstream.manifest("v1"))
    assert not await pull_reaches_upstream(client, upstream, manifest)
    upstream.registry.heal()
    asked = len(upstream.registry.journal)
    await poll_until(lambda: client.get(upstream.manifest("v1")), lambda _: len(upstream.registry.journal) > asked)
    assert await quota_metrics(mirror, upstream) == (None, None)


async def test_malformed_quota_headers_are_ignored(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """The manifest is served with any content of the headers."""
    manifest = upstream.publish(image(100), "v1")
    upstream.registry.inject(Header("ratelimit-remaining", "a few"))
    upstream.registry.inject(Header("ratelimit-limit", "-1;w=;;,"))
    assert (await client.get(upstream.manifest("v1"))).body == manifest.content
    assert await quota_metrics(mirror, upstream) == (None, None)


async def test_upstream_is_retried_after_retry_after(client: Client, upstream: Upstream) -> None:
    """After one 503 with Retry-After there is no request before that time; clients get the time; then it recovers."""
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
    await poll_until(lambda: client.get(upstream.manifest("v1")), lambda reply: reply.status == 200)
    assert time.monotonic() - began >= 2.9
    assert (await client.get(upstream.blob(manifest.blobs[0]))).status == 200
