"""The rest of the API: /v2/, unknown routes, other methods, JSON errors, client headers, connections."""

import asyncio
from urllib.parse import urlsplit

import pytest

from tests.fake.cdn import Cdn
from tests.fake.content import Blob, image
from tests.fake.registry import Registry
from tests.http.client import WITHIN, Client
from tests.http.upstreams import Upstream
from tests.real.mirror import Mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("target", ["/v2/", "/v2", "/v2/?ns=docker.io"])
async def test_base_needs_no_upstream(client: Client, hub: Registry, method: str, target: str) -> None:
    """/v2/ is 200 for every client, without a redirect, a login or an upstream request."""
    reply = await client.ask(method, target)
    assert reply.status == 200, reply
    assert reply.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.length == 2
    assert reply.body == (b"{}" if method == "GET" else b"")
    assert len(hub.journal) == 0


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1/",
        "/v2/_catalog",
        "/v2/team",
        "/v2/team/app",
        "/v2/team/app/tags",
        "/v2/team/app/tags/other",
        "/v2/team/app/manifests",
        "/v2/manifests/v1",
        "/v3/team/app/manifests/v1",
        "/favicon.ico",
        "/dockerhub/library/alpine/manifests/latest",
    ],
)
async def test_unknown_route_is_404_with_advice(client: Client, hub: Registry, target: str) -> None:
    """An OCI error with a message and a detail that is not null, without an upstream request."""
    reply = await client.get(target)
    assert reply.status == 404, reply
    assert len(str(reply.error["message"])) > 15
    assert len(hub.journal) == 0


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE"])
@pytest.mark.parametrize("kind", ["manifests/v1", "blobs/uploads/", "blobs/sha256:" + "0" * 64, ""])
async def test_push_is_405(client: Client, hub: Registry, method: str, kind: str) -> None:
    """The mirror refuses pushes; Allow lists the supported methods."""
    reply = await client.ask(method, f"/v2/team/app/{kind}" if kind else "/v2/")
    assert reply.status == 405, reply
    assert reply.headers["Allow"] == "GET, HEAD"
    assert reply.error["code"] == "UNSUPPORTED"
    assert len(hub.journal) == 0


async def test_push_is_refused_before_its_body(client: Client) -> None:
    """The 405 is sent although no byte of the announced body was received."""
    address = urlsplit(client.base)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(b"PUT /v2/team/app/manifests/v1 HTTP/1.1\r\nHost: m\r\nContent-Length: 100000000\r\n\r\n")
    async with asyncio.timeout(WITHIN / 4):
        assert (await reader.readline()).startswith(b"HTTP/1.1 405 ")
    writer.close()


@pytest.mark.parametrize("target", ["/v2/_catalog", "/v2/team/app/manifests/none", "/v2/team/app/blobs/sha256:0"])
async def test_head_of_an_error_matches_its_get(client: Client, target: str) -> None:
    """HEAD has the status, type and length of the GET's error, and no body."""
    got, headed = await client.get(target), await client.head(target)
    assert headed.status == got.status >= 400
    assert headed.body == b""
    for name in ("Content-Type", "Content-Length"):
        assert headed.headers[name] == got.headers[name]


async def test_missing_image_is_404_with_its_own_code(client: Client, upstream: Upstream) -> None:
    """The code tells clients what is missing; they fall back at once."""
    upstream.publish(image(10), "v1")
    manifest = await client.get(upstream.manifest("v2"))
    assert (manifest.status, manifest.error["code"]) == (404, "MANIFEST_UNKNOWN")
    blob = await client.get(upstream.blob(Blob.noise(3)))
    assert (blob.status, blob.error["code"]) == (404, "BLOB_UNKNOWN")


async def test_client_authorization_is_not_forwarded(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """A client's Authorization is for the mirror: it is sent to no upstream and never logged."""
    manifest = upstream.publish(image(1000), "v1")
    login = {"Authorization": "Bearer client-own-secret", "Cookie": "session=client-own-secret"}
    for target in (upstream.manifest("v1"), upstream.manifest(manifest), upstream.blob(manifest.blobs[1])):
        assert (await client.get(target, login)).status == 200
    assert all("client-own-secret" not in str(seen.headers) for seen in upstream.registry.journal.entries)
    assert "client-own-secret" not in mirror.program.said()


async def test_client_authorization_does_not_follow_redirects(
    client: Client, upstream: Upstream, cdn: Cdn, mirror: Mirror
) -> None:
    """It follows none for a blob or a manifest, and no log contains it."""
    upstream.registry.blobs_at = upstream.registry.manifests_at = cdn
    manifest = upstream.publish(image(1000), "v1")
    login = {"Authorization": "Basic Y2xpZW50Om93bi1zZWNyZXQ="}
    for target in (upstream.manifest("v1"), upstream.manifest(manifest), upstream.blob(manifest.blobs[1])):
        assert (await client.get(target, login)).status == 200
    seen = [*upstream.registry.journal.entries, *cdn.journal.entries]
    assert len(cdn.journal) >= 2
    assert all("Authorization" not in entry.headers for entry in seen)
    assert "Y2xpZW50Om93bi1zZWNyZXQ" not in mirror.program.said()


async def test_http_1_0_and_connection_close(client: Client, upstream: Upstream) -> None:
    """HTTP/1.0, and `Connection: close` with HEAD then GET as dockerd does, get the same bytes."""
    manifest = upstream.publish(image(1000), "v1")
    target = upstream.manifest("v1").encode()
    for line in (b"GET %s HTTP/1.0\r\n\r\n", b"GET %s HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n"):
        head, _, body = (await client.raw(line % target)).partition(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n")[0]
        assert b"chunked" not in head.lower()
        assert body == manifest.content


async def test_keep_alive_connection_serves_many_requests(client: Client, upstream: Upstream) -> None:
    """HEAD, GET, an error and a blob one after another on one connection."""
    manifest = upstream.publish(image(1000), "v1")
    layer = manifest.blobs[1]
    targets = (
        f"HEAD {upstream.manifest('v1')}",
        f"GET {upstream.manifest('v1')}",
        f"GET {upstream.manifest('none')}",
        f"GET {upstream.blob(layer)}",
    )
    asked = "".join(f"{target} HTTP/1.1\r\nHost: m\r\n\r\n" for target in targets)
    closing = "GET /v2/ HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n"
    came = await client.raw((asked + closing).encode())
    assert came.count(b"HTTP/1.1 ") == 5
    assert came.count(b"HTTP/1.1 404 ") == 1
    assert came.count(manifest.content) == 1
    assert layer.content in came
    assert came.endswith(b"{}")
