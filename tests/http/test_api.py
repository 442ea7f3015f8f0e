"""Everything that is no manifest and no blob: the base, unknown routes, other methods, errors as JSON."""

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
async def test_the_base_is_answered_without_any_upstream(
    client: Client, hub: Registry, method: str, target: str
) -> None:
    """Clients ask /v2/ first: 200 to everybody, no redirect, no login, and no upstream has a say."""
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
async def test_any_other_route_is_404_and_says_what_to_do(client: Client, hub: Registry, target: str) -> None:
    """OCI error JSON with a message and a detail that is not null, and nothing is asked upstream."""
    reply = await client.get(target)
    assert reply.status == 404, reply
    assert len(str(reply.error["message"])) > 15
    assert len(hub.journal) == 0


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE"])
@pytest.mark.parametrize("kind", ["manifests/v1", "blobs/uploads/", "blobs/sha256:" + "0" * 64, ""])
async def test_writing_is_405(client: Client, hub: Registry, method: str, kind: str) -> None:
    """A mirror can't be pushed to; it says which methods are allowed."""
    reply = await client.ask(method, f"/v2/team/app/{kind}" if kind else "/v2/")
    assert reply.status == 405, reply
    assert reply.headers["Allow"] == "GET, HEAD"
    assert reply.error["code"] == "UNSUPPORTED"
    assert len(hub.journal) == 0


async def test_a_pushed_body_is_not_waited_for(client: Client) -> None:
    """The 405 comes though not one byte of the announced body was sent."""
    address = urlsplit(client.base)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(b"PUT /v2/team/app/manifests/v1 HTTP/1.1\r\nHost: m\r\nContent-Length: 100000000\r\n\r\n")
    async with asyncio.timeout(WITHIN / 4):
        assert (await reader.readline()).startswith(b"HTTP/1.1 405 ")
    writer.close()


@pytest.mark.parametrize("target", ["/v2/_catalog", "/v2/team/app/manifests/none", "/v2/team/app/blobs/sha256:0"])
async def test_an_errors_head_is_its_get_without_the_body(client: Client, target: str) -> None:
    """HEAD has the same status, type and length as the GET's error, and no body."""
    got, headed = await client.get(target), await client.head(target)
    assert headed.status == got.status >= 400
    assert headed.body == b""
    for name in ("Content-Type", "Content-Length"):
        assert headed.headers[name] == got.headers[name]


async def test_a_missing_image_is_404_with_its_own_code(client: Client, upstream: Upstream) -> None:
    """Clients tell by the code what is missing, and fall back at once."""
    upstream.publish(image(10), "v1")
    manifest = await client.get(upstream.manifest("v2"))
    assert (manifest.status, manifest.error["code"]) == (404, "MANIFEST_UNKNOWN")
    blob = await client.get(upstream.blob(Blob.noise(3)))
    assert (blob.status, blob.error["code"]) == (404, "BLOB_UNKNOWN")


async def test_a_clients_login_stays_here(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """A client's Authorization is for the mirror: it goes neither upstream nor into the log."""
    manifest = upstream.publish(image(1000), "v1")
    login = {"Authorization": "Bearer client-own-secret", "Cookie": "session=client-own-secret"}
    for target in (upstream.manifest("v1"), upstream.manifest(manifest), upstream.blob(manifest.blobs[1])):
        assert (await client.get(target, login)).status == 200
    assert all("client-own-secret" not in str(seen.headers) for seen in upstream.registry.journal.entries)
    assert "client-own-secret" not in mirror.program.said()


async def test_a_clients_login_goes_to_no_storage(client: Client, upstream: Upstream, cdn: Cdn, mirror: Mirror) -> None:
    """Nor does it follow a redirect: neither a blob's nor a manifest's, and it is in nobody's log."""
    upstream.registry.blobs_at = upstream.registry.manifests_at = cdn
    manifest = upstream.publish(image(1000), "v1")
    login = {"Authorization": "Basic Y2xpZW50Om93bi1zZWNyZXQ="}
    for target in (upstream.manifest("v1"), upstream.manifest(manifest), upstream.blob(manifest.blobs[1])):
        assert (await client.get(target, login)).status == 200
    seen = [*upstream.registry.journal.entries, *cdn.journal.entries]
    assert len(cdn.journal) >= 2
    assert all("Authorization" not in entry.headers for entry in seen)
    assert "Y2xpZW50Om93bi1zZWNyZXQ" not in mirror.program.said()


async def test_old_and_short_connections(client: Client, upstream: Upstream) -> None:
    """HTTP/1.0, and `Connection: close` with HEAD then GET as dockerd does, get the same bytes."""
    manifest = upstream.publish(image(1000), "v1")
    target = upstream.manifest("v1").encode()
    for line in (b"GET %s HTTP/1.0\r\n\r\n", b"GET %s HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n"):
        head, _, body = (await client.raw(line % target)).partition(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n")[0]
        assert b"chunked" not in head.lower()
        assert body == manifest.content


async def test_one_connection_serves_many_requests(client: Client, upstream: Upstream) -> None:
    """Keep-alive: HEAD, GET, an error and a blob one after another on one connection."""
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
