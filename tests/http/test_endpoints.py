"""Several endpoints of one upstream, tried in order: where one fails, the next answers, soon and completely."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.fake.answers import Valve
from tests.fake.content import Blob, Manifest, image
from tests.fake.faults import Cut, Fault, Hold, Reset, Status, Wrong
from tests.fake.registry import Registry
from tests.http.client import Client, poll_until, wait_until_cached
from tests.http.upstreams import Upstream, by_ns
from tests.real.mirror import Mirror
from tests.real.mirror import mirror as running_mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20
FIRST_BYTE = 2.0
CACHE = 8 * MIB
CONFIG = f"""
[cache]
max_size = {CACHE}
[tags]
fresh_for = "0s"
missing_for = "0s"
[timeouts]
connect = "1s"
first_byte = "{FIRST_BYTE:g}s"
silence = "1s"
shutdown = "2s"
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """An upstream with two endpoints."""

    upstream: Upstream
    first: Registry
    second: Registry

    @property
    def section(self) -> str:
        """Its configuration section."""
        return f'[upstreams."{self.upstream.name}"]\nurls = ["{self.first.url}", "{self.second.url}"]\n'

    def publish(self, manifest: Manifest, *tags: str) -> Manifest:
        """Push an image to both registries."""
        for registry in (self.first, self.second):
            registry.publish(self.upstream.repository, manifest, *tags)
        return manifest

    def publish_blob(self, blob: Blob) -> Blob:
        """Push a blob to both registries."""
        for registry in (self.first, self.second):
            registry.add(self.upstream.repository, blob)
        return blob

    async def repair(self) -> None:
        """Remove all faults of both registries."""
        for registry in (self.first, self.second):
            registry.heal()
            await registry.come_back()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pairs(request: pytest.FixtureRequest) -> AsyncIterator[list[Pair]]:
    """One pair for each test of the module."""
    tests = sum(item.getparent(pytest.Module) is request.node for item in request.session.items)
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for number in range(tests):
            first = await stack.enter_async_context(Registry.running())
            second = await stack.enter_async_context(Registry.running())
            found.append(Pair(Upstream(f"r{number}.test", first), first, second))
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mirror(pairs: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mirror]:
    """The mirror process, with all pairs."""
    directory = tmp_path_factory.mktemp("mirror")
    config = directory / "mirror.toml"
    config.write_text(CONFIG + "".join(pair.section for pair in pairs))
    async with running_mirror(directory, "--config", str(config)) as started:
        yield started


@pytest.fixture(scope="module")
def unused_pairs(pairs: list[Pair]) -> Iterator[Pair]:
    """The pairs that no test has used yet."""
    return iter(pairs)


@pytest.fixture
def pair(unused_pairs: Iterator[Pair]) -> Pair:
    """A pair for this test only."""
    return next(unused_pairs)


async def refuse_connections(registry: Registry) -> None:
    """Refuse connections."""
    await registry.go_down()


def fault(fault: Fault) -> Callable[[Registry], Awaitable[None]]:
    """Return a failure that applies this fault to all requests."""

    async def broken(registry: Registry) -> None:
        registry.inject(fault)

    return broken


FAILURES = {
    "refused": refuse_connections,
    "reset": fault(Reset()),
    "silent": fault(Hold()),
    "404": fault(Status(404)),
    "401": fault(Status(401)),
    "403": fault(Status(403)),
    "429": fault(Status(429, {"Retry-After": "3600"})),
    "500": fault(Status(500)),
    "503": fault(Status(503, {"Retry-After": "3600"})),
    "no manifest": fault(Status(200, {"Content-Type": "text/html"}, b"<html>please log in</html>")),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_next_endpoint_answers_where_the_first_fails(client: Client, pair: Pair, failure: str) -> None:
    """Tag, digest and blob by GET and HEAD, and lists: within the first-byte timeout, whatever the failure."""
    upstream, manifest = pair.upstream, pair.publish(image(100, 200), "v1")
    await FAILURES[failure](pair.first)
    began = time.monotonic()
    assert (await client.head(upstream.manifest("v1"))).headers["Docker-Content-Digest"] == manifest.digest
    assert time.monotonic() - began < FIRST_BYTE + 1
    assert (await client.get(upstream.manifest("v1"))).body == manifest.content
    assert (await client.get(upstream.manifest(manifest))).body == manifest.content
    assert json.loads((await client.get(f"/v2/{upstream.name}/team/app/tags/list")).body)["tags"] == ["v1"]
    for blob in manifest.blobs[1:]:
        assert (await client.head(upstream.blob(blob))).status == 200
        reply = await client.get(upstream.blob(blob))
        if failure == "no manifest":  # an HTML page instead of a blob is wrong bytes, detected at its end
            reply = await client.get(upstream.blob(blob))
        assert (reply.status, reply.body) == (200, blob.content), reply


async def test_first_endpoint_is_preferred(client: Client, pair: Pair) -> None:
    """The order is the configuration's; the second endpoint gets no request while the first answers."""
    manifest = pair.publish(image(100), "v1")
    await client.get(pair.upstream.manifest("v1"))
    assert (await client.get(pair.upstream.blob(manifest.blobs[1]))).status == 200
    assert len(pair.first.journal) > 0
    assert len(pair.second.journal) == 0


async def test_head_refused_by_one_endpoint_is_sent_to_the_next(client: Client, pair: Pair) -> None:
    """Upstreams count GETs as pulls, so a tag is requested by GET only if no endpoint answers HEAD."""
    manifest = pair.publish(image(100), "v1")
    pair.first.inject(Status(403))
    for _ in range(3):
        assert (await client.get(pair.upstream.manifest("v1"))).body == manifest.content
    assert [seen.method for seen in pair.second.of_manifest("v1")] == ["GET", "HEAD", "HEAD"]
    pair.second.inject(Status(405), method="HEAD")
    assert (await client.get(pair.upstream.manifest("v1"))).body == manifest.content
    assert [seen.method for seen in pair.second.of_manifest("v1")][3:] == ["HEAD", "GET"]
    await pair.second.go_down()
    assert (await client.get(pair.upstream.manifest("v2"))).status == 503


async def test_tag_is_gone_only_if_all_endpoints_say_so(client: Client, pair: Pair) -> None:
    """A tag survives a 404 of one endpoint while the other is down; when both answer 404, it is removed."""
    upstream = pair.upstream
    manifest = pair.publish(image(100), "v1")
    assert (await client.get(upstream.manifest("v1"))).status == 200
    for blob in manifest.blobs:
        assert (await client.get(upstream.blob(blob))).status == 200
    await wait_until_cached(client, *(upstream.blob(blob) for blob in manifest.blobs))
    for registry in (pair.first, pair.second):
        registry.repository(upstream.repository).tags.clear()
    await pair.second.go_down()
    reply = await client.get(upstream.manifest("v1"))
    assert (reply.status, reply.body) == (200, manifest.content)
    assert reply.cache_status.startswith("mirror; fwd=stale")
    assert (await client.get(upstream.manifest("v2"))).status == 503
    await pair.second.come_back()
    gone = await poll_until(lambda: client.get(upstream.manifest("v1")), lambda reply: reply.status == 404)
    assert gone.error["code"] == "MANIFEST_UNKNOWN"
    await pair.first.go_down()
    await pair.second.go_down()
    assert (await client.get(upstream.manifest("v1"))).status == 503, "the tag was forgotten, not kept for bad times"


@pytest.mark.parametrize(
    ("first", "second", "status", "code"),
    [
        ("403", "500", 503, "UNAVAILABLE"),
        ("404", "refused", 503, "UNAVAILABLE"),
        ("404", "403", 404, "NAME_UNKNOWN"),
        ("404", "404", 404, "MANIFEST_UNKNOWN"),
        ("silent", "404", 504, "UNAVAILABLE"),
    ],
)
async def test_most_significant_failure_is_reported(
    client: Client, pair: Pair, first: str, second: str, status: int, code: str
) -> None:
    """Temporary failures are reported before permanent ones, in whichever order the two occurred."""
    target = by_ns(pair.upstream.manifest("v1"))
    for one, other in ((pair.first, pair.second), (pair.second, pair.first)):
        await FAILURES[first](one)
        await FAILURES[second](other)
        reply = await client.get(target)
        assert (reply.status, reply.error["code"]) == (status, code), reply
        await pair.repair()
        await poll_until(
            lambda: client.get(target), lambda reply: reply.status == 404 and "does not have" in str(reply)
        )


async def test_rate_limit_is_reported_before_an_outage(client: Client, pair: Pair) -> None:
    """One endpoint is rate limited, the other down; the first is not asked again before Retry-After."""
    pair.first.inject(Status(429, {"Retry-After": "3600"}))
    await pair.second.go_down()
    for _ in range(3):
        reply = await client.get(by_ns(pair.upstream.manifest("v1")))
        assert (reply.status, reply.error["code"]) == (503, "TOOMANYREQUESTS"), reply
    assert len(pair.first.journal) == 1


async def test_silent_endpoint_is_soon_skipped(client: Client, pair: Pair) -> None:
    """The first requests wait a part of the timeout for it; later ones skip it, except for one probe."""
    manifest = pair.publish(image(*range(100, 130)), "v1")
    pair.first.inject(Hold())
    for _ in range(2):
        began = time.monotonic()
        assert (await client.get(pair.upstream.manifest("v1"))).status == 200
        assert time.monotonic() - began < FIRST_BYTE + 1
    asked, began = len(pair.first.journal), time.monotonic()
    for blob in manifest.blobs:
        assert (await client.get(pair.upstream.blob(blob))).body == blob.content
    assert time.monotonic() - began < 10
    assert len(pair.first.journal) - asked <= 5


async def test_recovered_endpoint_is_used_again(client: Client, pair: Pair, mirror: Mirror) -> None:
    """No restart is needed; /readyz and /metrics show the state of each endpoint and of the upstream."""
    name = pair.upstream.name
    first, second = (registry.url.partition("://")[2] for registry in (pair.first, pair.second))
    pair.publish(image(100), "v1")
    await pair.first.go_down()

    async def states() -> tuple[object, object, list[float]]:
        ready = json.loads((await client.get("/readyz")).body)
        metrics = await mirror.metrics()
        up = [metrics[f'mirror_upstream_up{{endpoint="{one}",upstream="{name}"}}'] for one in (first, second)]
        return ready["upstreams"][name], ready["endpoints"][name], up

    assert await states() == ("up", {first: "up", second: "up"}, [1, 1])
    assert (await client.get(pair.upstream.manifest("v1"))).status == 200
    assert await states() == ("up", {first: "down", second: "up"}, [0, 1])
    await pair.second.go_down()
    await client.get(pair.upstream.manifest("v2"))
    await client.get(pair.upstream.manifest("v2"))
    assert await states() == ("down", {first: "down", second: "down"}, [0, 0])
    await pair.first.come_back()
    await poll_until(
        lambda: client.get(pair.upstream.manifest("v1")),
        lambda reply: reply.status == 200 and "Warning" not in reply.headers,
    )
    assert await states() == ("up", {first: "up", second: "down"}, [1, 0])


@pytest.mark.parametrize("size", [4 * MIB, 10 * MIB], ids=["stored", "passed"])
async def test_interrupted_blob_continues_at_the_next_endpoint(client: Client, pair: Pair, size: int) -> None:
    """It continues at that byte, in one response, stored or not, even if the first could deliver the rest."""
    manifest = pair.publish(image(size), "v1")
    assert (await client.get(pair.upstream.manifest("v1"))).status == 200  # it states a size too large to be stored
    blob = next(blob for blob in manifest.blobs if blob.size == size)
    pair.first.inject(Cut(at=size // 2), times=1)
    reply = await client.get(pair.upstream.blob(blob))
    assert (reply.status, reply.whole) == (200, True)
    assert reply.body == blob.content
    asked = [seen.range for seen in pair.second.of_blob(blob)]
    assert asked, "the second brought the rest"
    starts = [int(str(one).removeprefix("bytes=").partition("-")[0]) for one in asked]
    assert all(0 < start <= size // 2 for start in starts)
    assert sum(seen.sent for seen in pair.second.of_blob(blob)) <= size // 2 + MIB


@pytest.mark.parametrize("size", [4 * MIB, 10 * MIB], ids=["stored", "passed"])
async def test_next_endpoint_is_used_after_wrong_bytes(client: Client, pair: Pair, size: int) -> None:
    """Wrong bytes never form a complete blob, and the next request for it uses the second endpoint."""
    blob = pair.publish_blob(Blob.noise(size))
    pair.first.inject(Wrong(at=size // 2), "*/blobs/*")
    reply = await client.get(pair.upstream.blob(blob))
    assert not (reply.status == 200 and reply.whole)
    asked = len(pair.first.of_blob(blob))
    reply = await client.get(pair.upstream.blob(blob))
    assert (reply.status, reply.whole) == (200, True)
    assert reply.body == blob.content
    assert len(pair.first.of_blob(blob)) == asked
    other = pair.publish_blob(Blob.noise(100))
    pair.first.heal()
    assert (await client.get(pair.upstream.blob(other))).body == other.content
    assert len(pair.first.of_blob(other)) == 1, "other blobs are the first one's as before"


async def test_endpoint_failure_is_hidden_from_concurrent_clients(client: Client, pair: Pair) -> None:
    """A hundred clients while the first endpoint refuses: each gets its bytes, and none waits for a timeout."""
    blobs = [pair.publish_blob(Blob.noise(1000)) for _ in range(100)]
    await pair.first.go_down()
    began = time.monotonic()
    replies = await asyncio.gather(*(client.get(pair.upstream.blob(blob)) for blob in blobs))
    assert [reply.body for reply in replies] == [blob.content for blob in blobs]
    assert time.monotonic() - began < 10


async def test_probe_of_a_silent_endpoint_delays_one_request_briefly(client: Client, pair: Pair) -> None:
    """The probe takes a fraction of the timeout, and affects one request only."""
    pair.publish(image(100), "v1")
    await pair.first.go_down()
    assert (await client.get(pair.upstream.manifest("v1"))).status == 200
    valve = Valve()
    pair.first.inject(Hold(valve))
    await pair.first.come_back()
    began = time.monotonic()
    while not pair.first.journal.entries:
        asked = time.monotonic()
        assert (await client.get(pair.upstream.manifest("v1"))).status == 200
        assert time.monotonic() - asked < FIRST_BYTE
        assert time.monotonic() - began < 20
        await asyncio.sleep(0.1)
