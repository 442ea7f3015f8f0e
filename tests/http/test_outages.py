"""Upstream can't or won't answer: what is here is served and marked as stale, what isn't fails soon and honestly."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.fake.answers import Valve
from tests.fake.content import Manifest, image, index
from tests.fake.faults import Hold, Reset, Status
from tests.fake.registry import Registry
from tests.http.client import Client, Reply, kept, settled
from tests.http.upstreams import IMPATIENT, Upstream, by_ns
from tests.real.mirror import mirror as running_mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = IMPATIENT + '[tags]\nfresh_for = "0s"\n'

Break = Callable[[Registry], Awaitable[None]]


def status(code: int, **headers: str) -> Break:
    """Upstream answers everything with this."""

    async def broken(registry: Registry) -> None:
        registry.inject(Status(code, {name.replace("_", "-"): value for name, value in headers.items()}))

    return broken


async def reset(registry: Registry) -> None:
    """Upstream takes connections and resets them."""
    registry.inject(Reset())


async def hang(registry: Registry) -> None:
    """Upstream takes requests and says nothing."""
    registry.inject(Hold(Valve()))


BROKEN: dict[str, Break] = {
    "500": status(500),
    "502": status(502),
    "503": status(503, Retry_After="2"),
    "504": status(504),
    "refused": Registry.go_down,
    "reset": reset,
    "silent": hang,
}
REFUSING: dict[str, Break] = {
    "401": status(401),
    "401 with challenge": status(401, WWW_Authenticate='Bearer realm="http://127.0.0.1:9/token",service="x"'),
    "401 basic": status(401, WWW_Authenticate='Basic realm="x"'),
    "403": status(403),
}
LIMITED: dict[str, Break] = {"429": status(429, Retry_After="2"), "429 bare": status(429)}
FAILING = {**BROKEN, **REFUSING, **LIMITED}


async def pulled(client: Client, upstream: Upstream, manifest: Manifest | None = None) -> Manifest:
    """An image that is in the cache whole."""
    manifest = upstream.publish(manifest or image(100, 200), "v1")
    assert (await client.get(upstream.manifest("v1"))).body == manifest.content
    for blob in manifest.blobs:
        assert (await client.get(upstream.blob(blob))).body == blob.content
        await kept(client, upstream.blob(blob))
    return manifest


def stale(reply: Reply, manifest: Manifest, body: bool = True) -> None:
    """An answer is this manifest, and says that nobody could confirm it."""
    assert reply.status == 200, reply
    assert reply.body == (manifest.content if body else b"")
    assert reply.headers["Docker-Content-Digest"] == manifest.digest
    assert reply.headers["Content-Type"] == manifest.media_type
    assert reply.length == manifest.size
    assert reply.headers["Warning"].startswith('299 - "')
    assert reply.headers["Warning"].endswith('"')
    assert int(reply.headers["Age"]) >= 0
    assert reply.cache_status.startswith("mirror; fwd=stale"), reply


async def works_again(client: Client, target: str) -> Reply:
    """The first answer that is neither an error nor stale."""
    return await settled(
        lambda: client.get(target), lambda reply: reply.status == 200 and "Warning" not in reply.headers
    )


async def repaired(upstream: Upstream) -> None:
    """The outage is over."""
    upstream.registry.heal()
    await upstream.registry.come_back()


@pytest.mark.parametrize("failure", FAILING)
async def test_a_cached_image_is_served_whatever_happens_upstream(
    client: Client, upstream: Upstream, failure: str
) -> None:
    """The tag stale and marked, digests and blobs plainly; when upstream is back the mark goes."""
    manifest = await pulled(client, upstream)
    await FAILING[failure](upstream.registry)
    for target in (upstream.manifest("v1"), by_ns(upstream.manifest("v1"))):
        stale(await client.get(target), manifest)
        stale(await client.head(target), manifest, body=False)
    for target, content in [
        (upstream.manifest(manifest), manifest.content),
        *((upstream.blob(blob), blob.content) for blob in manifest.blobs),
    ]:
        reply = await client.get(target)
        assert (reply.status, reply.body, reply.cache_status) == (200, content, "mirror; hit"), reply
        assert "Warning" not in reply.headers
    await repaired(upstream)
    assert (await works_again(client, upstream.manifest("v1"))).body == manifest.content


def failed(reply: Reply, *statuses: int) -> None:
    """An honest failure."""
    assert reply.status in statuses, reply
    assert reply.error["message"]
    assert "WWW-Authenticate" not in reply.headers


@pytest.mark.parametrize("failure", BROKEN)
async def test_what_is_not_here_fails_soon(client: Client, upstream: Upstream, failure: str) -> None:
    """503 or 504 well before any client's patience ends, by tag, digest and blob, GET and HEAD; never a hang."""
    manifest = upstream.publish(image(100), "v1")
    await BROKEN[failure](upstream.registry)
    targets = [upstream.manifest("v1"), upstream.manifest(manifest), upstream.blob(manifest.blobs[1])]
    for target in [*targets, *(by_ns(target) for target in targets)]:
        began = time.monotonic()
        failed(await client.get(target), 503, 504)
        assert (await client.head(target)).status in (503, 504)
        assert time.monotonic() - began < 10
    await repaired(upstream)
    for target in targets:
        await works_again(client, target)


@pytest.mark.parametrize("failure", ["401", "401 basic", "403"])
async def test_a_refused_login_is_404_and_named(client: Client, upstream: Upstream, failure: str) -> None:
    """No challenge reaches the client, which would answer with its own login; the message says whose login it is."""
    manifest = upstream.publish(image(100), "v1")
    await REFUSING[failure](upstream.registry)
    for target in (upstream.manifest("v1"), upstream.manifest(manifest), upstream.blob(manifest.blobs[1])):
        reply = await client.get(target)
        failed(reply, 404)
        assert upstream.name in str(reply.error["message"])
        headed = await client.head(target)
        assert (headed.status, "WWW-Authenticate" in headed.headers) == (404, False)


@pytest.mark.parametrize("failure", ["401", "403"])
async def test_one_stray_refusal_does_not_stick(client: Client, upstream: Upstream, failure: str) -> None:
    """The next request asks again and works."""
    manifest = upstream.publish(image(100), "v1")
    upstream.registry.inject(Status(int(failure)), times=1)
    await client.get(upstream.manifest("v1"))
    upstream.registry.heal()
    assert (await client.get(upstream.manifest("v1"))).body == manifest.content


@pytest.mark.parametrize("failure", LIMITED)
async def test_a_rate_limit_makes_mirrors_clients_fall_back(client: Client, upstream: Upstream, failure: str) -> None:
    """Asked by ns: 503, on which clients go elsewhere at once; asked by path, where there is no elsewhere: 429."""
    manifest = upstream.publish(image(100), "v1")
    await LIMITED[failure](upstream.registry)
    for target in (upstream.manifest("v1"), upstream.manifest(manifest), upstream.blob(manifest.blobs[1])):
        mirrored, named = await client.get(by_ns(target)), await client.get(target)
        failed(mirrored, 503)
        failed(named, 429)
        assert named.error["code"] == "TOOMANYREQUESTS"
        for reply in (mirrored, named):
            assert int(reply.headers["Retry-After"]) >= 1


async def test_a_rate_limit_by_default_upstream(client: Client, hub: Registry) -> None:
    """Without ns or name in the path the mirror was asked as a mirror too: dockerd sends nothing else."""
    hub.publish("library/limited", image(10), "v1")
    hub.inject(Status(429, {"Retry-After": "7"}), "*/limited/*")
    reply = await client.get("/v2/library/limited/manifests/v1")
    failed(reply, 503)
    assert 1 <= int(reply.headers["Retry-After"]) <= 7


async def test_a_rate_limit_is_respected(client: Client, upstream: Upstream) -> None:
    """Upstream said when to come back: clients that ask at once don't make the mirror hammer it."""
    upstream.publish(image(100), "v1")
    upstream.registry.inject(Status(429, {"Retry-After": "3600"}))
    for _ in range(20):
        assert (await client.get(upstream.manifest("v1"))).status == 429
    assert len(upstream.registry.journal) <= 3


@pytest.mark.parametrize("failure", ["500", "429", "silent"])
async def test_an_image_with_a_layer_missing_is_not_served_stale(
    client: Client, upstream: Upstream, failure: str
) -> None:
    """podman doesn't fall back once it has the manifest: it must not get one whose layers can't be had."""
    manifest = upstream.publish(image(100, 200), "v1")
    await client.get(upstream.manifest("v1"))
    for blob in manifest.blobs[:-1]:
        await client.get(upstream.blob(blob))
    await FAILING[failure](upstream.registry)
    assert (await client.get(by_ns(upstream.manifest("v1")))).status in (503, 504)
    await repaired(upstream)
    await works_again(client, upstream.manifest("v1"))
    await client.get(upstream.blob(manifest.blobs[-1]))
    await kept(client, *(upstream.blob(blob) for blob in manifest.blobs))
    await FAILING[failure](upstream.registry)
    stale(await client.get(by_ns(upstream.manifest("v1"))), manifest)


async def test_an_index_is_served_stale_for_the_platforms_that_are_here(client: Client, upstream: Upstream) -> None:
    """Nobody pulls all platforms; the index goes with those that were pulled whole, and only with one at least."""
    ours, theirs = image(100), image(200)
    both = upstream.publish(index(ours, theirs), "v1")
    await client.get(upstream.manifest("v1"))
    await upstream.registry.go_down()
    assert (await client.get(upstream.manifest("v1"))).status in (503, 504)
    await upstream.registry.come_back()
    await works_again(client, upstream.manifest("v1"))
    await works_again(client, upstream.manifest(ours))
    for blob in ours.blobs:
        assert (await client.get(upstream.blob(blob))).status == 200
    await kept(client, *(upstream.blob(blob) for blob in ours.blobs))
    await upstream.registry.go_down()
    stale(await client.get(upstream.manifest("v1")), both)
    assert (await client.get(upstream.manifest(ours))).body == ours.content
    assert (await client.get(upstream.manifest(theirs))).status in (503, 504)


@pytest.mark.parametrize("failure", ["silent", "refused", "500"])
async def test_after_an_outage_is_known_answers_are_instant(client: Client, upstream: Upstream, failure: str) -> None:
    """Clients ask for every blob anew: a hundred questions don't wait a time-out each, nor reach upstream each."""
    manifest = upstream.publish(image(*range(100, 120)), "v1")
    await BROKEN[failure](upstream.registry)
    for _ in range(5):
        assert (await client.get(upstream.manifest("v1"))).status in (503, 504)
    asked = len(upstream.registry.journal)
    began = time.monotonic()
    for blob in manifest.blobs * 5:
        assert (await client.get(upstream.blob(blob))).status in (503, 504)
    assert time.monotonic() - began < 3
    assert len(upstream.registry.journal) - asked <= 5
    await repaired(upstream)
    assert (await works_again(client, upstream.manifest("v1"))).body == manifest.content
    for blob in manifest.blobs:
        assert (await client.get(upstream.blob(blob))).body == blob.content


async def test_a_page_that_is_no_manifest_replaces_none(client: Client, upstream: Upstream) -> None:
    """A captive portal or a maintenance page answers 200 to everything: what is here stays."""
    manifest = await pulled(client, upstream)
    upstream.registry.inject(Status(200, {"Content-Type": "text/html"}, b"<html>please log in</html>"))
    stale(await client.get(upstream.manifest("v1")), manifest)
    for target in (upstream.manifest("v2"), upstream.manifest(image(1)), upstream.blob(image(1).blobs[0])):
        failed(await client.get(target), 502, 503)
    upstream.registry.heal()
    assert (await works_again(client, upstream.manifest("v1"))).body == manifest.content


async def test_all_who_wait_for_one_request_hear_of_its_failure(client: Client, upstream: Upstream) -> None:
    """Twenty joined to one question: each gets the error, none an empty success and none waits for ever."""
    manifest = upstream.publish(image(100), "v1")
    valve = Valve()
    upstream.registry.inject(Hold(valve))
    upstream.registry.inject(Status(500))
    targets = [upstream.manifest("v1"), upstream.blob(manifest.blobs[1])] * 10
    asking = [asyncio.create_task(client.get(target)) for target in targets]
    await upstream.registry.journal.until(lambda seen: len(seen) >= 2)
    valve.open()
    for reply in await asyncio.gather(*asking):
        failed(reply, 503, 504)
    assert len(upstream.registry.journal) <= 10


async def test_one_missing_blob_is_no_outage(client: Client, upstream: Upstream) -> None:
    """404s are answers: however many, nothing else is refused for them."""
    manifest = upstream.publish(image(100), "v1")
    for number in range(20):
        assert (await client.get(upstream.manifest(f"none{number}"))).status == 404
    assert (await client.get(upstream.manifest("v1"))).body == manifest.content


async def test_one_upstreams_outage_is_not_anothers(client: Client, upstream: Upstream, hub: Registry) -> None:
    """Each upstream has its own breaker."""
    hub.publish("library/fine", image(10), "v1")
    await hang(upstream.registry)
    await asyncio.gather(*(client.get(upstream.manifest(f"v{number}")) for number in range(10)))
    assert (await client.get("/v2/fine/manifests/v1")).status == 200


async def test_no_such_host_and_no_tls(tmp_path: Path) -> None:
    """A name that doesn't resolve and a port that doesn't speak TLS are outages like others."""
    async with Registry.running() as plain:
        addresses = {"dns.test": "http://nowhere.invalid", "tls.test": f"https://127.0.0.1:{plain.port}"}
        async with running_mirror(tmp_path, upstreams=addresses) as mirror, Client.of(mirror.url) as client:
            for name in addresses:
                reply = await client.get(f"/v2/{name}/team/app/manifests/v1")
                failed(reply, 503, 504)
                assert name in str(reply.error["message"])


async def test_staleness_has_an_end(tmp_path: Path) -> None:
    """Nothing is served stale that was confirmed longer ago than stale_for."""
    config = tmp_path / "mirror.toml"
    config.write_text(IMPATIENT + '[tags]\nfresh_for = "0s"\nstale_for = "1ms"\n')
    async with (
        Registry.running() as registry,
        running_mirror(tmp_path, "--config", str(config), upstreams={"r.test": registry.url}) as mirror,
        Client.of(mirror.url) as client,
    ):
        manifest = await pulled(client, Upstream("r.test", registry))
        await registry.go_down()
        failed(await client.get("/v2/r.test/team/app/manifests/v1"), 503, 504)
        assert (await client.get(f"/v2/r.test/team/app/manifests/{manifest.digest}")).body == manifest.content
