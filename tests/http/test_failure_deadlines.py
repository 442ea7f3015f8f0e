"""Responses and errors are sent while clients still wait for them, with the default settings."""

import asyncio
import contextlib
import statistics
import time
from pathlib import Path

import pytest

from tests.fake.answers import Valve
from tests.fake.content import Blob, image
from tests.fake.faults import Hold, Slow, Status
from tests.fake.registry import Registry
from tests.http.client import Client, Reply
from tests.http.upstreams import Upstream, by_ns, section
from tests.real.mirror import mirror as running_mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20
HEADERS_WITHIN = 3.0  # seconds: SOCI's timeout, the shortest of all clients
DECIDED_WITHIN = 10.0  # seconds, after which clients or their users give up
ZEROS = "sha256:" + "0" * 64


async def timed(client: Client, method: str, target: str) -> tuple[Reply, float]:
    """Return a reply, and the seconds it took."""
    began = time.monotonic()
    reply = await client.ask(method, target)
    return reply, time.monotonic() - began


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("target", ["/v2/", "/v2"])
async def test_base_is_answered_at_once_during_an_outage(
    client: Client, hub: Registry, method: str, target: str
) -> None:
    """Clients consider a mirror dead if /v2/ does not answer: 200 within 100 ms, whatever the upstream's state."""
    await hub.go_down()
    took = []
    for _ in range(5):
        reply, seconds = await timed(client, method, target)
        assert (reply.status, reply.headers["Docker-Distribution-Api-Version"]) == (200, "registry/2.0"), reply
        assert "WWW-Authenticate" not in reply.headers
        took.append(seconds)
    await hub.come_back()
    assert statistics.median(took) < 0.1, took


async def test_rate_limit_of_an_hour_is_reported_at_once(client: Client, upstream: Upstream) -> None:
    """After a 429 with Retry-After of an hour, clients get 503 at once, without an upstream request each."""
    manifest = upstream.publish(image(100), "v1")
    upstream.registry.inject(Status(429, {"Retry-After": "3600"}))
    for target in map(by_ns, (upstream.manifest("v1"), upstream.manifest(manifest)) * 10):
        reply, seconds = await timed(client, "GET", target)
        assert reply.status == 503, reply
        assert seconds < 1.0, f"{target} took {seconds:.1f} s"
    assert len(upstream.registry.journal) <= 3


async def test_upstream_failures_are_reported_within_ten_seconds(tmp_path: Path) -> None:
    """Silent, refusing, unresolvable or without TLS: an error within ten seconds, for every kind of request."""
    async with contextlib.AsyncExitStack() as stack:
        silent, plain, down = [await stack.enter_async_context(Registry.running()) for _ in range(3)]
        silent.inject(Hold())
        await down.go_down()
        config = tmp_path / "mirror.toml"
        config.write_text(
            section("silent.test", silent.url)
            + section("tls.test", f"https://127.0.0.1:{plain.port}")
            + section("refused.test", down.url)
            + section("dns.test", "http://nowhere.invalid")
        )
        mirror = await stack.enter_async_context(running_mirror(tmp_path, "--config", str(config)))
        client = await stack.enter_async_context(Client.of(mirror.url))
        asked = [
            (method, f"/v2/{name}.test/team/app/{what}")
            for name in ("silent", "tls", "refused", "dns")
            for what in ("manifests/v1", f"manifests/{ZEROS}", f"blobs/{ZEROS}", "tags/list")
            for method in ("GET", "HEAD")
        ]
        answers = await asyncio.gather(*(timed(client, method, target) for method, target in asked))
        for (method, target), (reply, seconds) in zip(asked, answers, strict=True):
            assert reply.status in (503, 504), f"{method} {target}: {reply}"
            assert seconds < DECIDED_WITHIN, f"{method} {target}: {reply.status} after {seconds:.1f} s"


async def test_lazy_snapshotter_does_not_wait_for_the_whole_blob(client: Client, upstream: Upstream) -> None:
    """Ranges all over a cold blob whose download takes a minute: each is answered within SOCI's timeout."""
    blob = upstream.publish_blob(Blob.noise(32 * MIB))
    upstream.registry.inject(Slow(MIB / 2))
    target = upstream.blob(blob)
    size, seconds = await timed(client, "HEAD", target)
    assert (size.status, size.length) == (200, blob.size)
    assert seconds < HEADERS_WITHIN
    for first in (0, 20 * MIB, 5 * MIB, blob.size - 50_000, 0):
        stop = 2 if first == 0 else first + 50_000
        began = time.monotonic()
        async with client.open(target, {"Range": f"bytes={first}-{stop - 1}"}) as answer:
            assert time.monotonic() - began < HEADERS_WITHIN, f"bytes {first} to {stop}"
            assert (answer.status, answer.headers["Content-Range"]) == (206, f"bytes {first}-{stop - 1}/{blob.size}")
            assert await answer.read() == blob.content[first:stop]
    assert sum(seen.sent for seen in upstream.registry.of_blob(blob)) < blob.size


async def test_downloaded_range_does_not_wait_for_the_rest(client: Client, upstream: Upstream) -> None:
    """stargz requests two bytes every minute: they are served though the download has stalled."""
    blob, valve = upstream.publish_blob(Blob.noise(4 * MIB)), Valve()
    upstream.registry.inject(Hold(valve, at=2 * MIB), ranged=False)
    async with client.open(upstream.blob(blob)):
        await valve.reached()
        for _ in range(3):
            began = time.monotonic()
            reply = await client.get(upstream.blob(blob), {"Range": "bytes=0-1"})
            assert (reply.status, reply.body) == (206, blob.content[:2]), reply
            assert time.monotonic() - began < HEADERS_WITHIN
    valve.open()
