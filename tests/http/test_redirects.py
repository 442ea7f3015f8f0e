"""Redirects of registries: followed exactly as spelled, and without the mirror's login on other origins."""

import time

import pytest

from tests.fake.cdn import Cdn
from tests.fake.content import Blob, image
from tests.fake.faults import Cut, Redirect, Status
from tests.fake.tokens import Basic
from tests.http.client import Client
from tests.http.upstreams import Upstream
from tests.real.mirror import Mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20
UPSTREAM = 'username = "me"\npassword_file = "{directory}/password"\n'
FILES = {"password": "secret"}


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_blob_redirected_to_a_cdn(client: Client, upstream: Upstream, cdn: Cdn, code: int) -> None:
    """The presigned URL is requested as spelled and without Authorization, otherwise the CDN refuses."""
    upstream.registry.gate = Basic("me", "secret")
    upstream.registry.blobs_at, upstream.registry.redirect_code = cdn, code
    blob = upstream.publish_blob(Blob.noise(MIB))
    for outcome in ("mirror; fwd=uri-miss; stored", "mirror; hit"):
        reply = await client.get(upstream.blob(blob))
        assert (reply.status, reply.whole, reply.body) == (200, True, blob.content), reply
        assert reply.cache_status == outcome
        assert "Location" not in reply.headers
    assert [seen.status for seen in cdn.journal.entries] == [200]
    assert any("Authorization" in seen.headers for seen in upstream.registry.of_blob(blob))
    assert all("Authorization" not in seen.headers for seen in cdn.journal.entries)


async def test_redirect_back_to_the_registry_is_without_login(client: Client, upstream: Upstream, cdn: Cdn) -> None:
    """A URL made up by another host may point at something at the registry that the login permits."""
    upstream.registry.gate = Basic("me", "secret")
    blob = upstream.publish_blob(Blob.noise(1000))
    back = f"{upstream.registry.url}/v2/private/secret/blobs/{blob.digest}"
    cdn.inject(Redirect(back))
    upstream.registry.inject(Redirect(f"{cdn.url}/away"), f"*/{upstream.repository}/blobs/*")
    assert (await client.get(upstream.blob(blob))).status != 200
    came_back = [seen for seen in upstream.registry.journal.entries if "private/secret" in seen.target]
    assert came_back
    assert all("Authorization" not in seen.headers for seen in came_back)


@pytest.mark.parametrize("redirects_heads", [False, True])
async def test_head_of_a_blob_redirected_to_a_cdn(
    client: Client, upstream: Upstream, cdn: Cdn, redirects_heads: bool
) -> None:
    """A URL presigned for GET refuses HEAD: the reply is complete all the same, without a download."""
    upstream.registry.blobs_at, upstream.registry.redirects_heads = cdn, redirects_heads
    blob = upstream.publish_blob(Blob.noise(8 * MIB))
    reply = await client.head(upstream.blob(blob))
    assert (reply.status, reply.length, reply.headers["Docker-Content-Digest"]) == (200, blob.size, blob.digest)
    assert sum(seen.sent for seen in cdn.journal.of("GET")) < blob.size


@pytest.mark.parametrize("heads_allowed", [True, False])
@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_manifest_redirected_to_a_cdn(
    client: Client, upstream: Upstream, cdn: Cdn, heads_allowed: bool, method: str
) -> None:
    """registry.k8s.io redirects manifests too; if the target refuses HEAD, a GET is sent."""
    upstream.registry.gate = Basic("me", "secret")
    upstream.registry.manifests_at, cdn.heads_allowed = cdn, heads_allowed
    manifest = upstream.publish(image(10), "v1")
    for reference in ("v1", manifest.digest):
        reply = await client.ask(method, upstream.manifest(reference))
        assert reply.status == 200, reply
        assert reply.headers["Docker-Content-Digest"] == manifest.digest
        assert reply.headers["Content-Type"] == manifest.media_type
        assert reply.length == manifest.size
        assert reply.body == (manifest.content if method == "GET" else b"")
    assert all("Authorization" not in seen.headers for seen in cdn.journal.entries)


@pytest.mark.parametrize(
    "spelling",
    [
        "/v2/hidden/place/blobs/{digest}",
        "../../../hidden/place/blobs/{digest}",
        "//127.0.0.1:{port}/v2/hidden/place/blobs/{digest}",
        "http://127.0.0.1:{port}/v2/hidden/place/blobs/{digest}",
        "/v2/hidden/place/blobs/{digest}?x=a%2Fb+c%20d==",
        "/v2/hidden/place/blobs/{digest}#part",
    ],
)
async def test_location_of_every_form(client: Client, upstream: Upstream, spelling: str) -> None:
    """Relative locations are resolved against the requested URL; the same origin still gets the login."""
    blob = Blob.noise(1000)
    upstream.registry.add("hidden/place", blob)
    upstream.registry.gate = Basic("me", "secret")
    location = spelling.format(digest=blob.digest, port=upstream.registry.port)
    upstream.registry.inject(Redirect(location), "*/team/app/blobs/*")
    reply = await client.get(upstream.blob(blob))
    assert (reply.status, reply.body) == (200, blob.content), reply
    assert upstream.registry.journal.entries[-1].target == location.partition("#")[0].replace(
        f"http://127.0.0.1:{upstream.registry.port}", ""
    ).replace(f"//127.0.0.1:{upstream.registry.port}", "").replace("../../../", "/v2/")


async def test_chain_of_redirects(client: Client, upstream: Upstream, cdn: Cdn) -> None:
    """Storage behind a regional host behind a registry."""
    blob = upstream.publish_blob(Blob.noise(1000))
    for number in range(4):
        following = cdn.presign(blob.content) if number == 3 else f"/v2/hop/{number}/blobs/{blob.digest}"
        place = f"hop/{number - 1}" if number else "team/app"
        upstream.registry.inject(Redirect(following), f"/v2/{place}/blobs/*")
    reply = await client.get(upstream.blob(blob))
    assert (reply.status, reply.body) == (200, blob.content), reply


@pytest.mark.parametrize("code", [302, 307])
async def test_redirect_loop_is_an_error(client: Client, upstream: Upstream, code: int) -> None:
    """The error follows soon, after a limited number of redirects."""
    blob = upstream.publish_blob(Blob.noise(1000))
    upstream.registry.inject(Redirect(f"/v2/team/app/blobs/{blob.digest}", code))
    began = time.monotonic()
    reply = await client.get(upstream.blob(blob))
    assert reply.status in (502, 503, 504), reply
    assert reply.error["message"]
    assert time.monotonic() - began < 10
    assert len(upstream.registry.journal) <= 50


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/", "http://", "http://[::1", "", "https://"],
)
async def test_invalid_redirect_target_is_an_error(client: Client, upstream: Upstream, location: str) -> None:
    """Other schemes than http and https, and malformed URLs, are not followed: an error, no hang, no file."""
    blob = upstream.publish_blob(Blob.noise(1000))
    upstream.registry.inject(Redirect(location))
    reply = await client.get(upstream.blob(blob))
    assert reply.status in (502, 503, 504), reply
    assert reply.error["message"]


async def test_redirect_without_a_location_is_an_error(client: Client, upstream: Upstream) -> None:
    """The redirect itself is never passed to the client."""
    blob = upstream.publish_blob(Blob.noise(1000))
    upstream.registry.inject(Status(307))
    assert (await client.get(upstream.blob(blob))).status in (502, 503, 504)


async def test_expired_url_on_resumption_is_renewed(client: Client, upstream: Upstream, cdn: Cdn) -> None:
    """The resumption requests a new URL from the registry, and continues at the byte of the disconnect."""
    upstream.registry.blobs_at = cdn
    cdn.single_use = True
    cdn.inject(Cut(at=MIB), times=1)
    blob = upstream.publish_blob(Blob.noise(2 * MIB))
    reply = await client.get(upstream.blob(blob))
    assert (reply.status, reply.whole, reply.body) == (200, True, blob.content), reply
    (resumed,) = [seen.range for seen in cdn.journal.entries if seen.status == 206]
    assert resumed is not None
    assert 0 < int(resumed.removeprefix("bytes=").removesuffix("-")) <= MIB


async def test_refusal_of_a_cdn_is_not_passed_on(client: Client, upstream: Upstream, cdn: Cdn) -> None:
    """Neither the CDN's challenge nor its error body reach the client."""
    upstream.registry.blobs_at = cdn
    cdn.inject(Status(403, {"WWW-Authenticate": "Basic"}))
    blob = upstream.publish_blob(Blob.noise(1000))
    reply = await client.get(upstream.blob(blob))
    assert reply.status in (404, 502, 503), reply
    assert "WWW-Authenticate" not in reply.headers
    assert b"JUNK" not in reply.body


async def test_range_of_a_cold_blob_from_a_cdn(client: Client, upstream: Upstream, cdn: Cdn) -> None:
    """Range is sent to the redirect's target."""
    upstream.registry.blobs_at = cdn
    blob = upstream.publish_blob(Blob.noise(2 * MIB))
    reply = await client.get(upstream.blob(blob), {"Range": "bytes=2097000-"})
    assert (reply.status, reply.body) == (206, blob.content[2_097_000:]), reply


async def test_presigned_urls_are_not_logged(client: Client, upstream: Upstream, cdn: Cdn, mirror: Mirror) -> None:
    """A presigned query is a credential, after successes and failures."""
    upstream.registry.blobs_at = cdn
    good, bad = (upstream.publish_blob(Blob.noise(1000)) for _ in range(2))
    await client.get(upstream.blob(good))
    cdn.inject(Status(500))
    reply = await client.get(upstream.blob(bad))
    assert good.digest in mirror.program.said()
    for text in (mirror.program.said(), str(reply)):
        assert "X-Cred" not in text
        assert "Zm9v" not in text
