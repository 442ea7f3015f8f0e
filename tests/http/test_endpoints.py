"""Several addresses of one upstream, tried in order: what one of them can't bring the next one does, soon and whole."""

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
from tests.http.client import Client, kept, settled
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
    """An upstream with two addresses; its targets are spelled as those of any other."""

    upstream: Upstream
    first: Registry
    second: Registry

    @property
    def section(self) -> str:
        """Its part of the configuration."""
        return f'[upstreams."{self.upstream.name}"]\nurls = ["{self.first.url}", "{self.second.url}"]\n'

    def publish(self, manifest: Manifest, *tags: str) -> Manifest:
        """Push an image to both."""
        for registry in (self.first, self.second):
            registry.publish(self.upstream.repository, manifest, *tags)
        return manifest

    def publish_blob(self, blob: Blob) -> Blob:
        """Push a blob to both."""
        for registry in (self.first, self.second):
            registry.add(self.upstream.repository, blob)
        return blob

    async def repaired(self) -> None:
        """Both are as new."""
        for registry in (self.first, self.second):
            registry.heal()
            await registry.come_back()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pairs(request: pytest.FixtureRequest) -> AsyncIterator[list[Pair]]:
    """As many pairs as the module has tests."""
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
    """The pairs that no test has had yet."""
    return iter(pairs)


@pytest.fixture
def pair(unused_pairs: Iterator[Pair]) -> Pair:
    """An upstream of this test's own."""
    return next(unused_pairs)


async def refused(registry: Registry) -> None:
    """Nobody listens."""
    await registry.go_down()


def fault(fault: Fault) -> Callable[[Registry], Awaitable[None]]:
    """All that is asked goes wrong in this way."""

    async def broken(registry: Registry) -> None:
        registry.inject(fault)

    return broken


FAILURES = {
    "refused": refused,
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
async def test_what_one_endpoint_does_not_bring_another_does(client: Client, pair: Pair, failure: str) -> None:
    """Tag, digest and blob, GET and HEAD, and lists: within the time for a first byte, though the first is no help."""
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
        if failure == "no manifest":  # a page in the place of a blob is wrong bytes: found out when it has come
            reply = await client.get(upstream.blob(blob))
        assert (reply.status, reply.body) == (200, blob.content), reply


async def test_the_first_is_asked_as_long_as_it_answers(client: Client, pair: Pair) -> None:
    """The order is the configuration's; who comes second hears nothing."""
    manifest = pair.publish(image(100), "v1")
    await client.get(pair.upstream.manifest("v1"))
    assert (await client.get(pair.upstream.blob(manifest.blobs[1]))).status == 200
    assert len(pair.first.journal) > 0
    assert len(pair.second.journal) == 0


async def test_a_head_that_one_refuses_another_answers(client: Client, pair: Pair) -> None:
    """Upstreams count GETs, so that no tag is to be asked for by GET as long as any endpoint tells by HEAD."""
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


async def test_gone_is_what_all_of_them_say_is_gone(client: Client, pair: Pair) -> None:
    """A tag outlives one endpoint's 404 while the other can't be asked; when both say 404 it is gone here too."""
    upstream = pair.upstream
    manifest = pair.publish(image(100), "v1")
    assert (await client.get(upstream.manifest("v1"))).status == 200
    for blob in manifest.blobs:
        assert (await client.get(upstream.blob(blob))).status == 200
    await kept(client, *(upstream.blob(blob) for blob in manifest.blobs))
    for registry in (pair.first, pair.second):
        registry.repository(upstream.repository).tags.clear()
    await pair.second.go_down()
    reply = await client.get(upstream.manifest("v1"))
    assert (reply.status, reply.body) == (200, manifest.content)
    assert reply.cache_status.startswith("mirror; fwd=stale")
    assert (await client.get(upstream.manifest("v2"))).status == 503
    await pair.second.come_back()
    gone = await settled(lambda: client.get(upstream.manifest("v1")), lambda reply: reply.status == 404)
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
async def test_where_none_answers_the_most_telling_failure_is_told(
    client: Client, pair: Pair, first: str, second: str, status: int, code: str
) -> None:
    """What may yet end before what is for good, in whichever order the two failed."""
    target = by_ns(pair.upstream.manifest("v1"))
    for one, other in ((pair.first, pair.second), (pair.second, pair.first)):
        await FAILURES[first](one)
        await FAILURES[second](other)
        reply = await client.get(target)
        assert (reply.status, reply.error["code"]) == (status, code), reply
        await pair.repaired()
        await settled(lambda: client.get(target), lambda reply: reply.status == 404 and "does not have" in str(reply))


async def test_a_limit_is_told_before_an_outage(client: Client, pair: Pair) -> None:
    """Where one is at its limit and the other is down; the one at its limit is not asked again before its time."""
    pair.first.inject(Status(429, {"Retry-After": "3600"}))
    await pair.second.go_down()
    for _ in range(3):
        reply = await client.get(by_ns(pair.upstream.manifest("v1")))
        assert (reply.status, reply.error["code"]) == (503, "TOOMANYREQUESTS"), reply
    assert len(pair.first.journal) == 1


async def test_a_silent_one_leaves_the_other_its_time_and_is_soon_left_out(client: Client, pair: Pair) -> None:
    """The first questions wait for a part of the time, the following for none of it, but for one that probes."""
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


async def test_an_endpoint_that_is_back_is_asked_again(client: Client, pair: Pair, mirror: Mirror) -> None:
    """Without a restart; /readyz and /metrics tell how each of them is, and that the upstream as a whole is up."""
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
    await settled(
        lambda: client.get(pair.upstream.manifest("v1")),
        lambda reply: reply.status == 200 and "Warning" not in reply.headers,
    )
    assert await states() == ("up", {first: "up", second: "down"}, [1, 0])


@pytest.mark.parametrize("size", [4 * MIB, 10 * MIB], ids=["stored", "passed"])
async def test_a_blob_that_one_breaks_off_goes_on_at_the_other(client: Client, pair: Pair, size: int) -> None:
    """From the byte where it stopped, within one answer, stored or not; even if the one would bring the rest."""
    blob = pair.publish_blob(Blob.noise(size))
    if size > CACHE:  # that it can't be stored is found out by trying, once
        assert (await client.get(pair.upstream.blob(blob))).whole
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
async def test_after_wrong_bytes_the_other_is_asked(client: Client, pair: Pair, size: int) -> None:
    """They never make a whole blob, and who asks again gets the right ones, though the first answers as ever."""
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


async def test_a_failing_endpoint_costs_its_neighbours_client_nothing(client: Client, pair: Pair) -> None:
    """A hundred at once while the first refuses: each gets its bytes, and none waits a time-out."""
    blobs = [pair.publish_blob(Blob.noise(1000)) for _ in range(100)]
    await pair.first.go_down()
    began = time.monotonic()
    replies = await asyncio.gather(*(client.get(pair.upstream.blob(blob)) for blob in blobs))
    assert [reply.body for reply in replies] == [blob.content for blob in blobs]
    assert time.monotonic() - began < 10


async def test_a_probe_takes_little_of_anybodys_time(client: Client, pair: Pair) -> None:
    """One that was down and is now silent holds a question up for a fraction of the time, and one question only."""
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
