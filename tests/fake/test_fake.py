"""The fake registry serves content, lists, presigned redirects and challenges as real registries do."""

import aiohttp
import pytest
from yarl import URL

from tests.fake.cdn import Cdn
from tests.fake.conftest import BLOB, blob_path
from tests.fake.content import OCI_INDEX, OCI_MANIFEST, Blob, artifact, image, index
from tests.fake.faults import Status
from tests.fake.journal import Ending
from tests.fake.registry import Registry, ghcr, quay
from tests.fake.tokens import Basic, Bearer, TokenServer, basic


async def test_blob_is_served_whole_and_journaled(registry: Registry, client: aiohttp.ClientSession) -> None:
    """The registry is correct without faults, and its journal records each request and the bytes sent."""
    async with client.get(blob_path(), headers={"X-Mine": "1"}) as answer:
        assert answer.status == 200
        assert answer.headers["Docker-Content-Digest"] == BLOB.digest
        assert answer.content_length == BLOB.size
        assert await answer.read() == BLOB.content
    (seen,) = registry.of_blob(BLOB)
    assert (seen.status, seen.sent, seen.ending) == (200, BLOB.size, Ending.COMPLETE)
    assert seen.headers["x-mine"] == "1"


@pytest.mark.parametrize(
    ("asked", "first", "stop"), [("0-", 0, 300_000), ("5-9", 5, 10), ("-7", 299_993, 300_000), ("9-900000", 9, 300_000)]
)
async def test_range_is_served_as_206(client: aiohttp.ClientSession, asked: str, first: int, stop: int) -> None:
    """A single range gives 206 with the correct Content-Range."""
    async with client.get(blob_path(), headers={"Range": f"bytes={asked}"}) as answer:
        assert answer.status == 206
        assert answer.headers["Content-Range"] == f"bytes {first}-{stop - 1}/300000"
        assert await answer.read() == BLOB.content[first:stop]


@pytest.mark.parametrize(("asked", "status"), [("bytes=300000-", 416), ("bytes=0-1,5-6", 400)])
async def test_unsatisfiable_and_multiple_ranges_are_refused(
    client: aiohttp.ClientSession, asked: str, status: int
) -> None:
    """A range past the end is 416; several ranges are 400, as object stores do."""
    async with client.get(blob_path(), headers={"Range": asked}) as answer:
        assert answer.status == status


async def test_manifest_is_served_by_tag_and_digest(registry: Registry, client: aiohttp.ClientSession) -> None:
    """Publishing an index publishes its images and their blobs."""
    one, two = image(10), image(20, docker=True)
    both = index(one, two)
    registry.publish("org/app", both, "v1")
    for reference, manifest in (("v1", both), (both.digest, both), (two.digest, two)):
        async with client.get(f"/v2/org/app/manifests/{reference}") as answer:
            assert answer.headers["Content-Type"] == manifest.media_type
            assert answer.headers["Docker-Content-Digest"] == manifest.digest
            assert await answer.read() == manifest.content
    async with client.head(blob_path(two.blobs[1])) as answer:
        assert answer.content_length == 20


async def test_sha512_blob_is_served_under_its_digest(registry: Registry, client: aiohttp.ClientSession) -> None:
    """A blob is stored under the algorithm of its digest."""
    blob = Blob.noise(10, "sha512")
    registry.add("org/app", blob)
    async with client.get(blob_path(blob)) as answer:
        assert await answer.read() == blob.content


@pytest.mark.parametrize(
    ("path", "status"), [("org/none/manifests/a", 404), ("org/app/manifests/none", 404), ("x", 404)]
)
async def test_unknown_content_is_404(client: aiohttp.ClientSession, path: str, status: int) -> None:
    """Unknown repositories, references and routes are 404."""
    async with client.get(f"/v2/{path}") as answer:
        assert answer.status == status


async def test_presigned_url_is_valid_only_as_spelled(registry: Registry, client: aiohttp.ClientSession) -> None:
    """The CDN refuses another spelling, a login, and an expired URL."""
    async with Cdn.running() as cdn:
        registry.blobs_at = cdn
        async with client.get(blob_path(), allow_redirects=False) as answer:
            assert answer.status == 307
            location = answer.headers["Location"]
        exact = URL(location, encoded=True)
        async with client.get(exact, headers={"Range": "bytes=5-9"}) as answer:
            assert await answer.read() == BLOB.content[5:10]
        for address, headers, status in (
            (URL(location), {}, 403),
            (exact, {"Authorization": "Bearer x"}, 400),
        ):
            async with client.get(address, headers=headers) as answer:
                assert answer.status == status
        async with client.head(exact) as answer:
            assert answer.status == 403
        cdn.single_use = True
        for status in (200, 403):
            async with client.get(exact) as answer:
                assert answer.status == status
        exact = URL(cdn.presign(b""), encoded=True)
        cdn.expire()
        async with client.get(exact) as answer:
            assert answer.status == 403


async def test_tag_list_pagination(registry: Registry, client: aiohttp.ClientSession) -> None:
    """n and last page through the tags; Link is relative or absolute."""
    registry.publish("org/app", image(1), "a", "b", "c")
    registry.absolute_links = True
    async with client.get("/v2/org/app/tags/list?n=2") as answer:
        assert (await answer.json())["tags"] == ["a", "b"]
        assert answer.links["next"]["url"] == URL(f"{registry.url}/v2/org/app/tags/list?n=2&last=b")
    registry.absolute_links = False
    async with client.get("/v2/org/app/tags/list?n=2") as answer:
        assert answer.headers["Link"] == '</v2/org/app/tags/list?n=2&last=b>; rel="next"'
    async with client.get("/v2/org/app/tags/list?n=2&last=b") as answer:
        assert (await answer.json())["tags"] == ["c"]
        assert "Link" not in answer.headers


async def test_referrers_pagination(registry: Registry, client: aiohttp.ClientSession) -> None:
    """Artifacts are listed under their subject, filtered by type on request."""
    subject = image(1)
    signatures = [artifact("x/sig", Blob.noise(3), subject) for _ in range(3)]
    for manifest in (subject, artifact("x/sbom", Blob.noise(3), subject), *signatures):
        registry.publish("org/app", manifest)
    registry.page_size = 2
    found: list[str] = []
    target = f"/v2/org/app/referrers/{subject.digest}?artifactType=x/sig"
    for _ in range(2):
        async with client.get(target) as answer:
            assert answer.headers["Content-Type"] == OCI_INDEX
            assert answer.headers["OCI-Filters-Applied"] == "artifactType"
            found += [entry["digest"] for entry in (await answer.json(content_type=None))["manifests"]]
            target = str(answer.links["next"]["url"]) if "Link" in answer.headers else ""
    assert found == [manifest.digest for manifest in signatures]
    assert target == ""


async def test_narrow_accept_as_ghcr_and_quay(registry: Registry, client: aiohttp.ClientSession) -> None:
    """Behavior of GHCR and Quay when Accept lacks the media type."""
    manifest = image(1)
    registry.publish("org/app", manifest, "v1")
    registry.narrow = ghcr
    async with client.get("/v2/org/app/manifests/v1", headers={"Accept": "*/*"}) as answer:
        assert answer.status == 404
    registry.narrow = quay
    async with client.get("/v2/org/app/manifests/v1", headers={"Accept": "*/*"}) as answer:
        assert answer.headers["Docker-Content-Digest"] != manifest.digest
    async with client.get("/v2/org/app/manifests/v1", headers={"Accept": f"*/*, {OCI_MANIFEST}"}) as answer:
        assert answer.headers["Docker-Content-Digest"] == manifest.digest


async def test_basic_gate(registry: Registry, client: aiohttp.ClientSession) -> None:
    """Only the right login is admitted; faults do not apply to the refusal."""
    registry.gate = Basic("me", "pässword")
    registry.inject(Status(500), times=1)
    async with client.get(blob_path()) as answer:
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Basic realm="fake"')
    headers = {"Authorization": basic("me", "pässword")}
    for status in (500, 200):
        async with client.get(blob_path(), headers=headers) as answer:
            assert answer.status == status


async def test_bearer_gate(registry: Registry, client: aiohttp.ClientSession) -> None:
    """A token is valid for the requested scope until it is revoked."""
    async with TokenServer.running() as tokens:
        registry.gate = Bearer(tokens=tokens)
        tokens.logins = {"me": "secret"}
        scope = "repository:org/app:pull"
        async with client.get(blob_path()) as answer:
            assert answer.headers["WWW-Authenticate"] == (
                f'Bearer realm="{tokens.realm}",service="registry.test",scope="{scope}"'
            )
        async with client.get(f"{tokens.realm}?scope={scope}") as answer:
            assert answer.status == 401
        headers = {"Authorization": basic("me", "secret")}
        async with client.get(f"{tokens.realm}?scope={scope}", headers=headers) as answer:
            token = (await answer.json())["token"]
        for status in (200, 401):
            async with client.get(blob_path(), headers={"Authorization": f"Bearer {token}"}) as answer:
                assert answer.status == status
            tokens.revoke()
        assert len(tokens.asked) == 2


def test_challenge_spelling_can_vary() -> None:
    """A challenge can lack service and quotes, share its line or have others beside it, and change its realm."""
    tokens = TokenServer()
    gate = Bearer(tokens=tokens, service=None, quoted=False, beside=("Negotiate",), realm_after_expiry="http://other/")
    assert gate.challenges(None, "s") == ["Negotiate", f"Bearer realm={tokens.realm},scope=s"]
    assert gate.challenges("Bearer old", "s") == ["Negotiate", "Bearer realm=http://other/,scope=s"]
    sharing = Bearer(tokens=tokens, service=None, scoped=False, same_line='Basic realm="x", ')
    assert sharing.challenges(None, "s") == [f'Basic realm="x", Bearer realm="{tokens.realm}"']
