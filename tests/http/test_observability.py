"""Observability: health, metrics, one log event per pull, and no errors logged without a failure."""

import asyncio
import json
import re

import pytest

from tests.fake.answers import Valve
from tests.fake.content import Blob, image
from tests.fake.faults import Hold, Status, Wrong
from tests.http.client import Client
from tests.http.upstreams import Upstream, by_ns
from tests.real.mirror import Event, Mirror
from tests.real.program import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20


async def pull_events(mirror: Mirror, reference: str, count: int = 1) -> list[Event]:
    """Return the pull events of this reference; wait until there are *count*, each with all documented fields."""

    def found() -> list[Event]:
        return [
            event
            for event in mirror.events()
            if str(event["event"]).startswith("pull_") and event.get("reference") == reference
        ]

    await mirror.program.until(lambda: len(found()) >= count, within=5)
    assert len(found()) == count
    for event in found():
        assert {"upstream", "repository", "reference", "digest", "outcome", "bytes", "seconds", "client"} <= set(event)
    return found()


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_health_does_not_depend_on_upstreams(client: Client, upstream: Upstream, path: str, method: str) -> None:
    """A mirror whose upstreams are down is alive and ready: it serves cached content."""
    await upstream.registry.go_down()
    await client.get(upstream.manifest("v1"))
    assert (await client.ask(method, path)).status == 200


async def test_metrics_are_in_prometheus_format(client: Client, upstream: Upstream) -> None:
    """Every documented name is present, also before its first sample."""
    manifest = upstream.publish(image(100), "v1")
    await client.get(upstream.manifest("v1"))
    await client.get(upstream.blob(manifest.blobs[1]))
    reply = await client.get("/metrics")
    assert reply.status == 200
    assert reply.headers["Content-Type"].startswith("text/plain; version=")
    text = reply.body.decode()
    for name, kind in {
        "mirror_requests_total": "counter",
        "mirror_upstream_requests_total": "counter",
        "mirror_served_bytes_total": "counter",
        "mirror_upstream_bytes_total": "counter",
        "mirror_upstream_up": "gauge",
        "mirror_upstream_blobs": "gauge",
        "mirror_cache_bytes": "gauge",
        "mirror_cache_limit_bytes": "gauge",
        "mirror_cache_writable": "gauge",
        "mirror_evictions_total": "counter",
        "mirror_connections": "gauge",
        "mirror_connections_limit": "gauge",
        "process_open_fds": "gauge",
        "mirror_downloads_running": "gauge",
        "mirror_tasks": "gauge",
        "mirror_first_byte_seconds": "histogram",
    }.items():
        assert f"# TYPE {name} {kind}\n" in text, name
        assert re.search(rf"(?m)^{name}(_bucket|_count|_sum)?(\{{.*\}})? \d", text), name
    for labels in ('mirror_requests_total{kind="', 'mirror_upstream_requests_total{status="', 'upstream="'):
        assert labels in text


async def test_every_request_is_counted_once(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """Hits, misses and failures add up to the requests, bytes to the bytes sent."""
    manifest = upstream.publish(image(50_000), "v1")
    layer = manifest.blobs[1]
    before = await mirror.metrics()
    targets = [upstream.manifest("v1"), upstream.manifest("v1"), upstream.manifest("none")]
    targets += [upstream.blob(layer), upstream.blob(layer), upstream.blob(Blob.noise(1))]
    for target in targets:
        await client.get(target)
    await pull_events(mirror, layer.digest, 2)
    after = await mirror.metrics()

    def growth(name: str, label: str = "") -> float:
        def total(metrics: dict[str, float]) -> float:
            return sum(v for n, v in metrics.items() if n.partition("{")[0] == name and label in n)

        return total(after) - total(before)

    own = f'upstream="{upstream.name}"'
    assert growth("mirror_requests_total") == growth("mirror_requests_total", own) == len(targets)
    assert growth("mirror_served_bytes_total") == 2 * (manifest.size + layer.size)
    assert growth("mirror_served_bytes_total", own) == 2 * (manifest.size + layer.size)
    assert growth("mirror_upstream_bytes_total") == manifest.size + layer.size
    assert growth("mirror_upstream_requests_total", own) == len(upstream.registry.journal)
    assert growth("mirror_upstream_requests_total", 'status="404"') == 2
    assert growth("mirror_cache_bytes") == manifest.size + layer.size
    assert growth("mirror_first_byte_seconds_count") == growth("mirror_first_byte_seconds_count", own) >= 4


async def test_requests_about_no_upstream_have_an_empty_label(client: Client, upstream: Upstream) -> None:
    """The registry check and an unknown path have none; an error about an upstream has its name."""
    text = await _metrics_after(client, "/v2/", "/nothing", upstream.manifest("none"))
    assert re.search(r'(?m)^mirror_requests_total\{kind="api",outcome="answered",upstream=""\} \d', text)
    assert re.search(r'(?m)^mirror_requests_total\{kind="error",outcome="[a-z_]+",upstream=""\} \d', text)
    assert re.search(
        rf'(?m)^mirror_requests_total\{{kind="error",outcome="manifest_unknown",upstream="{upstream.name}"\}} \d', text
    )
    assert 'mirror_served_bytes_total{upstream=""}' not in text


async def _metrics_after(client: Client, *targets: str) -> str:
    for target in targets:
        await client.get(target)
    return (await client.get("/metrics")).body.decode()


async def test_concurrent_requests_are_counted_once(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """Concurrent hits, misses, joins and failures of both kinds: the outcomes add up to the requests."""
    manifest = upstream.publish(image(50_000), "v1")
    upstream.registry.inject(Status(404), "*/manifests/gone")
    upstream.registry.inject(Wrong(), f"*/blobs/{(wrong := upstream.publish_blob(Blob.noise(50_000))).digest}")
    targets = [upstream.manifest("v1"), upstream.manifest("gone"), upstream.manifest(manifest)]
    targets += [upstream.blob(blob) for blob in (manifest.blobs[1], wrong, Blob.noise(1))]
    before = await mirror.total("mirror_requests_total")
    replies = await asyncio.gather(*(client.get(target) for target in targets * 10))

    async def all_are_counted() -> bool:
        return await mirror.total("mirror_requests_total") - before >= len(replies)

    await eventually(all_are_counted, within=5)
    assert await mirror.total("mirror_requests_total") - before == len(replies) == 60


async def test_running_downloads_gauge(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """The gauge rises and falls with a download."""
    blob = upstream.publish_blob(Blob.noise(MIB))
    valve = Valve()
    upstream.registry.inject(Hold(valve, at=1000))
    async with client.open(upstream.blob(blob)) as answer:
        await valve.reached()
        assert await mirror.total("mirror_downloads_running") == 1
        valve.open()
        await answer.read()
    await pull_events(mirror, blob.digest)
    assert await mirror.total("mirror_downloads_running") == 0


async def test_pull_is_one_log_event(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """The event has client, upstream, reference, outcome, bytes and duration."""
    manifest = upstream.publish(image(5000), "event-tag")
    layer = manifest.blobs[1]
    for _ in range(2):
        await client.get(upstream.manifest("event-tag"))
        await client.get(by_ns(upstream.blob(layer)))
    for reference, digest, size in (
        ("event-tag", manifest.digest, manifest.size),
        (layer.digest, layer.digest, layer.size),
    ):
        events = await pull_events(mirror, reference, 2)
        for event in events:
            assert event["upstream"] == upstream.name
            assert event["repository"] == upstream.repository
            assert event["digest"] == digest
            assert event["bytes"] == size
            assert event["client"] == "127.0.0.1"
            assert isinstance(event["seconds"], float)
            assert 0 <= event["seconds"] < 10
        assert len({event["outcome"] for event in events}) == 2


async def test_log_event_has_the_bytes_sent(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """A truncated response is no success in the log, and its bytes are those that were sent."""
    blob = upstream.publish_blob(Blob.noise(MIB))
    upstream.registry.inject(Wrong())
    reply = await client.get(upstream.blob(blob))
    assert not reply.whole
    (event,) = await pull_events(mirror, blob.digest)
    assert event["bytes"] == len(reply.body)
    assert event["outcome"] not in ("hit", "stored", "miss")


async def test_client_disconnect_is_not_logged_as_an_error(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """Parallel fetches disconnect by design: no warning, no error, no traceback."""
    blob = upstream.publish_blob(Blob.noise(16 * MIB))
    await client.get(upstream.blob(blob))
    said = len(mirror.events())
    for _ in range(5):
        async with client.open(upstream.blob(blob)) as answer:
            await answer.content.readexactly(1000)
    await pull_events(mirror, blob.digest, 6)
    levels = {event["level"] for event in mirror.events()[said:]}
    assert levels <= {"debug", "info"}


async def test_every_log_line_is_a_json_event(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """JSON with time, level and name on every line, whatever was requested."""
    await client.get(upstream.manifest("none"))
    await client.get("/v2/%0a%0d%22/manifests/x")
    for nonsense in (b"nonsense\r\n\r\n", b"GET /\x00 HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nA: \x01{}\r\n\r\n"):
        await client.raw(nonsense)
    for line in mirror.program.said().splitlines():
        event = json.loads(line)
        assert {"event", "level", "timestamp"} <= set(event), line
        assert re.fullmatch("[a-z][a-z0-9_]*", event["event"]), line
