"""Outages of an upstream: cached content is served, marked as stale; everything else fails soon with a clear error."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.fake.answers import Valve
from tests.fake.content import Manifest, image, index
from tests.fake.faults import Hold, Reset, Status
from tests.fake.registry import Registry
from tests.http.client import Client, Reply, poll_until, wait_until_cached
from tests.http.upstreams import IMPATIENT, Upstream, by_ns
from tests.real.mirror import mirror as running_mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = IMPATIENT + '[tags]\nfresh_for = "0s"\n'

Break = Callable[[Registry], Awaitable[None]]


def status(code: int, **headers: str) -> Break:
    """Return an outage in which upstream sends this status for every request."""

    async def broken(registry: Registry) -> None:
        registry.inject(Status(code, {name.replace("_", "-"): value for name, value in headers.items()}))

    return broken


async def reset(registry: Registry) -> None:
    """Reset all connections."""
    registry.inject(Reset())


async def hang(registry: Registry) -> None:
    """Accept requests and never respond."""
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


async def pull_whole(client: Client, upstream: Upstream, manifest: Manifest | None = None) -> Manifest:
    """Pull an image, and wait until all of it is cached."""
    manifest = upstream.publish(manifest or image(100, 200), "v1")
    assert (await client.get(upstream.manifest("v1"))).body == manifest.content
    for blob in manifest.blobs:
        assert (await client.get(upstream.blob(blob))).body == blob.content
        await wait_until_cached(client, upstream.blob(blob))
    return manifest


def assert_stale(reply: Reply, manifest: Manifest, body: bool = True) -> None:
    """Check that a response is this manifest, marked as stale."""
    assert reply.status == 200, reply
    assert reply.body == (manifest.content if body else b"")
    assert reply.headers["Docker-Content-Digest"] == manifest.digest
    assert reply.headers["Content-Type"] == manifest.media_type
    assert reply.length == manifest.size
    assert reply.headers["Warning"].startswith('299 - "')
    assert reply.headers["Warning"].endswith('"')
    assert int(reply.headers["Age"]) >= 0
    assert reply.cache_status.startswith("mirror; fwd=stale"), reply


async def wait_for_recovery(client: Client, target: str) -> Reply:
    """Return the first response that is neither an error nor stale."""
    return await poll_until(
        lambda: client.get(target), lambda reply: reply.status == 200 and "Warning" not in reply.headers
    )


async def repair(upstream: Upstream) -> None:
    """End the outage."""
    upstream.registry.heal()
    await upstream.registry.come_back()


@pytest.mark.parametrize("failure", FAILING)
async def test_stale_tag_is_served_while_upstream_fails(client: Client, upstream: Upstream, failure: str) -> None:
    """The tag is marked as stale, digests and blobs are hits; after the recovery the mark is gone."""
    manifest = await pull_whole(client, upstream)
    await FAILING[failure](upstream.registry)
    for target in (upstream.manifest("v1"), by_ns(upstream.manifest("v1"))):
        assert_stale(await client.get(target), manifest)
        assert_stale(await client.head(target), manifest, body=False)
    for target, content in [
        (upstream.manifest(manifest), manifest.content),
        *((upstream.blob(blob), blob.content) for blob in manifest.blobs),
    ]:
        reply = await client.get(target)
        assert (reply.status, reply.body, reply.cache_status) == (200, content, "mirror; hit"), reply
        assert "Warning" not in reply.headers
    await repair(upstream)
    assert (await wait_for_recovery(client, upstream.manifest("v1"))).body == manifest.content


def assert_failed(reply: Reply, *statuses: int) -> None:
    """Check the status of an error, and that it has a message and no challenge."""
    assert reply.status in statuses, reply
    assert reply.error["message"]
    assert "WWW-Authenticate" not in reply.headers


@pytest.mark.parametrize("failure", BROKEN)
async def test_uncached_content_fails_soon_in_an_outage(client: Client, upstream: Upstream, failure: str) -> None:
    """503 or 504 well within clients' timeouts, for tag, digest and blob, GET and HEAD."""
    manifest = upstream.publish(image(100), "v1")
    await BROKEN[failure](upstream.registry)
    targets = [upstream.manifest("v1"), upstream.manifest(manifest), upstream.blob(manifest.blobs[1])]
    for target in [*targets, *(by_ns(target) for target in targets)]:
        began = time.monotonic()
        assert_failed(await client.get(target), 503, 504)
        assert (await client.head(target)).status in (503, 504)
        assert time.monotonic() - began < 10
    await repair(upstream)
    for target in targets:
        await wait_for_recovery(client, target)


@pytest.mark.parametrize("failure", ["401", "401 basic", "403"])
async def test_upstream_refusal_is_404_naming_the_upstream(client: Client, upstream: Upstream, failure: str) -> None:
    """No challenge is passed on, which would make clients send their own login; the message names the upstream."""
    manifest = upstream.publish(image(100), "v1")
    await REFUSING[failure](upstream.registry)
    for target in (upstream.manifest("v1"), upstream.manifest(manifest), upstream.blob(manifest.blobs[1])):
        reply = await client.get(target)
        assert_failed(reply, 404)
        assert upstream.name in str(reply.error["message"])
        headed = await client.head(target)
        assert (headed.status, "WWW-Authenticate" in headed.headers) == (404, False)


@pytest.mark.parametrize("failure", ["401", "403"])
async def test_single_upstream_refusal_is_not_remembered(client: Client, upstream: Upstream, failure: str) -> None:
    """The next request is sent upstream again, and succeeds."""
    manifest = upstream.publish(image(100), "v1")
    upstream.registry.inject(Status(int(failure)), times=1)
    await client.get(upstream.manifest("v1"))
    upstream.registry.heal()
    assert (await client.get(upstream.manifest("v1"))).body == manifest.content


@pytest.mark.parametrize("failure", LIMITED)
async def test_rate_limit_lets_mirror_clients_fall_back(client: Client, upstream: Upstream, failure: str) -> None:
    """Clients with ns get 503 and fall back at once; those with the registry in the path can't, and get 429."""
    manifest = upstream.publish(image(100), "v1")
    await LIMITED[failure](upstream.registry)
    for target in (upstream.manifest("v1"), upstream.manifest(manifest), upstream.blob(manifest.blobs[1])):
        mirrored, named = await client.get(by_ns(target)), await client.get(target)
        assert_failed(mirrored, 503)
        assert_failed(named, 429)
        assert named.error["code"] == "TOOMANYREQUESTS"
        for reply in (mirrored, named):
            assert int(reply.headers["Retry-After"]) >= 1


async def test_rate_limit_of_the_default_upstream(client: Client, hub: Registry) -> None:
    """A client without ns or a registry in the path is dockerd with a mirror configured, and gets 503."""
    hub.publish("library/limited", image(10), "v1")
    hub.inject(Status(429, {"Retry-After": "7"}), "*/limited/*")
    reply = await client.get("/v2/library/limited/manifests/v1")
    assert_failed(reply, 503)
    assert 1 <= int(reply.headers["Retry-After"]) <= 7
    wait = "wait 7 s, or set username and password_file, or credential_helper, in "
    assert f"the rate limit of docker.io is reached (429 for library/limited:v1): {wait}" in str(reply.error["message"])


async def test_retry_after_is_respected(client: Client, upstream: Upstream) -> None:
    """Requests within Retry-After are not sent upstream."""
    upstream.publish(image(100), "v1")
    upstream.registry.inject(Status(429, {"Retry-After": "3600"}))
    for _ in range(20):
        assert (await client.get(upstream.manifest("v1"))).status == 429
    assert len(upstream.registry.journal) <= 3


@pytest.mark.parametrize("failure", ["500", "429", "silent"])
async def test_image_with_a_missing_layer_is_not_served_stale(client: Client, upstream: Upstream, failure: str) -> None:
    """podman does not fall back once it has the manifest, so the layers must be available too."""
    manifest = upstream.publish(image(100, 200), "v1")
    await client.get(upstream.manifest("v1"))
    for blob in manifest.blobs[:-1]:
        await client.get(upstream.blob(blob))
    await FAILING[failure](upstream.registry)
    assert (await client.get(by_ns(upstream.manifest("v1")))).status in (503, 504)
    await repair(upstream)
    await wait_for_recovery(client, upstream.manifest("v1"))
    await client.get(upstream.blob(manifest.blobs[-1]))
    await wait_until_cached(client, *(upstream.blob(blob) for blob in manifest.blobs))
    await FAILING[failure](upstream.registry)
    assert_stale(await client.get(by_ns(upstream.manifest("v1"))), manifest)


async def test_index_is_served_stale_if_a_platform_is_complete(client: Client, upstream: Upstream) -> None:
    """Clients pull single platforms: the index is served if at least one of them is cached completely."""
    ours, theirs = image(100), image(200)
    both = upstream.publish(index(ours, theirs), "v1")
    await client.get(upstream.manifest("v1"))
    await upstream.registry.go_down()
    assert (await client.get(upstream.manifest("v1"))).status in (503, 504)
    await upstream.registry.come_back()
    await wait_for_recovery(client, upstream.manifest("v1"))
    await wait_for_recovery(client, upstream.manifest(ours))
    for blob in ours.blobs:
        assert (await client.get(upstream.blob(blob))).status == 200
    await wait_until_cached(client, *(upstream.blob(blob) for blob in ours.blobs))
    await upstream.registry.go_down()
    assert_stale(await client.get(upstream.manifest("v1")), both)
    assert (await client.get(upstream.manifest(ours))).body == ours.content
    assert (await client.get(upstream.manifest(theirs))).status in (503, 504)


@pytest.mark.parametrize("failure", ["silent", "refused", "500"])
async def test_known_outage_is_reported_at_once(client: Client, upstream: Upstream, failure: str) -> None:
    """Clients request every blob: a hundred requests neither wait for a timeout each nor reach upstream each."""
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
    await repair(upstream)
    assert (await wait_for_recovery(client, upstream.manifest("v1"))).body == manifest.content
    for blob in manifest.blobs:
        assert (await client.get(upstream.blob(blob))).body == blob.content


async def test_html_page_does_not_replace_a_manifest(client: Client, upstream: Upstream) -> None:
    """A captive portal or a maintenance page answers 200 to everything; cached content stays."""
    manifest = await pull_whole(client, upstream)
    upstream.registry.inject(Status(200, {"Content-Type": "text/html"}, b"<html>please log in</html>"))
    assert_stale(await client.get(upstream.manifest("v1")), manifest)
    for target in (upstream.manifest("v2"), upstream.manifest(image(1)), upstream.blob(image(1).blobs[0])):
        assert_failed(await client.get(target), 502, 503)
    upstream.registry.heal()
    assert (await wait_for_recovery(client, upstream.manifest("v1"))).body == manifest.content


async def test_failure_is_reported_to_all_waiting_clients(client: Client, upstream: Upstream) -> None:
    """Twenty clients share a request: each gets its error, none an empty success, none a hang."""
    manifest = upstream.publish(image(100), "v1")
    valve = Valve()
    upstream.registry.inject(Hold(valve))
    upstream.registry.inject(Status(500))
    targets = [upstream.manifest("v1"), upstream.blob(manifest.blobs[1])] * 10
    asking = [asyncio.create_task(client.get(target)) for target in targets]
    await upstream.registry.journal.until(lambda seen: len(seen) >= 2)
    valve.open()
    for reply in await asyncio.gather(*asking):
        assert_failed(reply, 503, 504)
    assert len(upstream.registry.journal) <= 10


async def test_404_does_not_open_the_breaker(client: Client, upstream: Upstream) -> None:
    """404s are regular responses: any number of them affects no other request."""
    manifest = upstream.publish(image(100), "v1")
    for number in range(20):
        assert (await client.get(upstream.manifest(f"none{number}"))).status == 404
    assert (await client.get(upstream.manifest("v1"))).body == manifest.content


async def test_breaker_is_per_upstream(client: Client, upstream: Upstream, hub: Registry) -> None:
    """An outage of one upstream does not affect another."""
    hub.publish("library/fine", image(10), "v1")
    await hang(upstream.registry)
    await asyncio.gather(*(client.get(upstream.manifest(f"v{number}")) for number in range(10)))
    assert (await client.get("/v2/fine/manifests/v1")).status == 200


async def test_dns_and_tls_failures_are_outages(tmp_path: Path) -> None:
    """A name that does not resolve, and a port without TLS."""
    async with Registry.running() as plain:
        addresses = {"dns.test": "http://nowhere.invalid", "tls.test": f"https://127.0.0.1:{plain.port}"}
        async with running_mirror(tmp_path, upstreams=addresses) as mirror, Client.of(mirror.url) as client:
            for name in addresses:
                reply = await client.get(f"/v2/{name}/team/app/manifests/v1")
                assert_failed(reply, 503, 504)
                assert name in str(reply.error["message"])


async def test_stale_for_limits_staleness(tmp_path: Path) -> None:
    """Nothing is served stale if it was last confirmed longer ago than stale_for."""
    config = tmp_path / "mirror.toml"
    config.write_text(IMPATIENT + '[tags]\nfresh_for = "0s"\nstale_for = "1ms"\n')
    async with (
        Registry.running() as registry,
        running_mirror(tmp_path, "--config", str(config), upstreams={"r.test": registry.url}) as mirror,
        Client.of(mirror.url) as client,
    ):
        manifest = await pull_whole(client, Upstream("r.test", registry))
        await registry.go_down()
        assert_failed(await client.get("/v2/r.test/team/app/manifests/v1"), 503, 504)
        assert (await client.get(f"/v2/r.test/team/app/manifests/{manifest.digest}")).body == manifest.content
