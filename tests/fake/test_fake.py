"""The fake registry does what its faults promise: otherwise a test that trusts it proves nothing."""

import asyncio
import gzip
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
from yarl import URL

from tests.fake.answers import Valve
from tests.fake.cdn import Cdn
from tests.fake.content import OCI_INDEX, OCI_MANIFEST, Blob, artifact, image, index
from tests.fake.faults import (
    Cut,
    Fault,
    Gzipped,
    Header,
    Hold,
    Overrun,
    RangeIgnored,
    RangeMislabelled,
    RangeShifted,
    Redirect,
    Reset,
    Resized,
    Slow,
    Status,
    Unframed,
    Without,
    Wrong,
)
from tests.fake.journal import Ending
from tests.fake.registry import Registry, ghcr, quay
from tests.fake.tokens import Basic, Bearer, TokenServer, basic

BLOB = Blob.noise(300_000)


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    async with Registry.running() as registry:
        registry.add("org/app", BLOB)
        yield registry


@pytest.fixture
async def client(registry: Registry) -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(registry.url, auto_decompress=False, timeout=timeout) as client:
        yield client


def blob_path(blob: Blob = BLOB) -> URL:
    return URL(f"/v2/org/app/blobs/{blob.digest}", encoded=True)


async def test_a_blob_comes_whole_and_is_noted(registry: Registry, client: aiohttp.ClientSession) -> None:
    """Without faults the registry is right, and its journal says what was asked and sent."""
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
async def test_ranges_are_answered(client: aiohttp.ClientSession, asked: str, first: int, stop: int) -> None:
    """One range gives 206 with the true Content-Range."""
    async with client.get(blob_path(), headers={"Range": f"bytes={asked}"}) as answer:
        assert answer.status == 206
        assert answer.headers["Content-Range"] == f"bytes {first}-{stop - 1}/300000"
        assert await answer.read() == BLOB.content[first:stop]


@pytest.mark.parametrize(("asked", "status"), [("bytes=300000-", 416), ("bytes=0-1,5-6", 400)])
async def test_ranges_that_are_refused(client: aiohttp.ClientSession, asked: str, status: int) -> None:
    """Past the end is 416; several ranges are 400, as object stores do."""
    async with client.get(blob_path(), headers={"Range": asked}) as answer:
        assert answer.status == status


async def test_a_manifest_by_tag_and_digest(registry: Registry, client: aiohttp.ClientSession) -> None:
    """A published index brings its images and their blobs with it."""
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


async def test_sha512_content_has_its_own_name(registry: Registry, client: aiohttp.ClientSession) -> None:
    """A blob is found under the algorithm it was named with."""
    blob = Blob.noise(10, "sha512")
    registry.add("org/app", blob)
    async with client.get(blob_path(blob)) as answer:
        assert await answer.read() == blob.content


@pytest.mark.parametrize(
    ("path", "status"), [("org/none/manifests/a", 404), ("org/app/manifests/none", 404), ("x", 404)]
)
async def test_what_is_not_there(client: aiohttp.ClientSession, path: str, status: int) -> None:
    """Unknown repositories, references and routes are 404."""
    async with client.get(f"/v2/{path}") as answer:
        assert answer.status == status


async def test_a_fault_befalls_the_requests_it_names(registry: Registry, client: aiohttp.ClientSession) -> None:
    """Path, method, Range and number limit a fault; heal() ends it."""
    registry.inject(Status(503, {"Retry-After": "7"}), "*/blobs/*", method="GET", ranged=False, times=2)
    ranged = {"Range": "bytes=0-1"}
    asked: tuple[tuple[str, dict[str, str]], ...] = (
        ("HEAD", {}),
        ("GET", {}),
        ("GET", ranged),
        ("GET", {}),
        ("GET", {}),
    )
    statuses = []
    for method, headers in asked:
        async with client.request(method, blob_path(), headers=headers) as answer:
            statuses.append(answer.status)
    assert statuses == [200, 503, 206, 503, 200]
    registry.inject(Status(500))
    registry.heal()
    async with client.get(blob_path()) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("framed", [False, True])
async def test_a_cut_body(registry: Registry, client: aiohttp.ClientSession, reset: bool, framed: bool) -> None:
    """A cut ends the body early, at exactly that byte when it ends by FIN, and again on a resumed request."""
    registry.inject(Cut(at=100_000, reset=reset))
    if not framed:
        registry.inject(Unframed())
    for first in (0, 60_000, 100_000):
        got = bytearray()
        with pytest.raises((aiohttp.ClientPayloadError, ConnectionResetError)):  # noqa: PT012 - the body is the act
            async with client.get(blob_path(), headers={"Range": f"bytes={first}-"}) as answer:
                async for chunk in answer.content.iter_any():
                    got += chunk
        if not reset:
            assert got == BLOB.content[first:100_000]
    assert {seen.ending for seen in registry.journal.entries} == {Ending.CUT}


async def test_a_connection_reset_before_the_status(registry: Registry, client: aiohttp.ClientSession) -> None:
    """No status line comes."""
    registry.inject(Reset(), times=9)
    with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
        await client.get(blob_path())
    assert registry.journal.entries[0].status is None


@pytest.mark.parametrize("at", [-1, 0, 150_000])
async def test_a_valve_holds_and_releases(registry: Registry, client: aiohttp.ClientSession, at: int) -> None:
    """What stands before the valve arrives; the rest when it opens."""
    valve = Valve()
    registry.inject(Hold(valve, at=at))
    asking = asyncio.create_task(client.get(blob_path()))
    await valve.reached()
    if at < 0:
        assert registry.journal.entries[0].status is None
        valve.open()
        async with await asking as answer:
            assert answer.status == 200
        return
    async with await asking as answer:
        head = await answer.content.readexactly(at)
        assert registry.journal.entries[0].sent == at
        valve.open()
        assert head + await answer.read() == BLOB.content


async def test_an_origin_ends_though_an_answer_is_held() -> None:
    """A valve that nobody opens doesn't keep a test from ending; the asker is cut off."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as client:
        async with Registry.running() as registry:
            valve = Valve()
            registry.inject(Hold(valve))
            asking = asyncio.create_task(client.get(registry.url + "/v2/"))
            await valve.reached()
        with pytest.raises(aiohttp.ClientError):
            await asking


async def test_a_slow_body(registry: Registry, client: aiohttp.ClientSession) -> None:
    """300 kB at 1 MB/s take about 0.3 s."""
    registry.inject(Slow(1_000_000))
    began = time.monotonic()
    async with client.get(blob_path()) as answer:
        assert await answer.read() == BLOB.content
    assert 0.25 < time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("fault", "body"),
    [
        (Wrong(), BLOB.content[:-1] + bytes([BLOB.content[-1] ^ 0xFF])),
        (Resized(-5), BLOB.content[:-5]),
        (Resized(3), BLOB.content + b"!!!"),
        (Unframed(), BLOB.content),
        (Overrun(), BLOB.content),
    ],
)
async def test_bodies_that_end_cleanly_and_are_wrong(
    registry: Registry, client: aiohttp.ClientSession, fault: Fault, body: bytes
) -> None:
    """These are whole HTTP answers; only a digest or a size can tell that something is off."""
    registry.inject(fault)
    async with client.get(blob_path()) as answer:
        assert answer.content_length == (None if isinstance(fault, Unframed) else len(body))
        assert await answer.read() == body


@pytest.mark.parametrize(
    ("fault", "status", "content_range", "body"),
    [
        (RangeIgnored(), 200, None, BLOB.content),
        (RangeShifted(4), 206, "bytes 14-299999/300000", BLOB.content[14:]),
        (RangeMislabelled("bytes 1-2/3"), 206, "bytes 1-2/3", BLOB.content[10:]),
    ],
)
async def test_ranges_answered_wrongly(
    registry: Registry, client: aiohttp.ClientSession, fault: Fault, status: int, content_range: str | None, body: bytes
) -> None:
    """Each of the ways in which a server can get a range wrong."""
    registry.inject(fault)
    async with client.get(blob_path(), headers={"Range": "bytes=10-"}) as answer:
        assert answer.status == status
        assert answer.headers.get("Content-Range") == content_range
        assert await answer.read() == body


async def test_gzip_though_nobody_asked(registry: Registry, client: aiohttp.ClientSession) -> None:
    """The encoding is named and real."""
    registry.inject(Gzipped())
    async with client.get(blob_path(), headers={"Accept-Encoding": "identity"}) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(await answer.read()) == BLOB.content


async def test_headers_that_are_missing_or_other(registry: Registry, client: aiohttp.ClientSession) -> None:
    """HEAD can lose its length and its digest."""
    registry.inject(Without("Docker-Content-Digest"))
    registry.inject(Unframed())
    registry.inject(Header("Content-Type", "text/plain"))
    async with client.head(blob_path()) as answer:
        assert answer.status == 200
        assert "Docker-Content-Digest" not in answer.headers
        assert "Content-Length" not in answer.headers
        assert answer.headers["Content-Type"] == "text/plain"


async def test_down_means_refused_and_up_again_is_the_same_port(registry: Registry) -> None:
    """A registry that is down refuses connections, and loses those that stood."""
    async with aiohttp.ClientSession(registry.url) as client:
        async with client.get("/v2/") as answer:
            assert answer.status == 200
        await registry.go_down()
        with pytest.raises(aiohttp.ClientError):
            await client.get("/v2/")
        await registry.come_back()
        async with client.get("/v2/") as answer:
            assert answer.status == 200


async def test_a_cdn_knows_its_addresses_only_as_spelled(registry: Registry, client: aiohttp.ClientSession) -> None:
    """Spelled otherwise or with a login it refuses; expired addresses too."""
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


async def test_redirects_keep_their_spelling(registry: Registry, client: aiohttp.ClientSession) -> None:
    """A Location is sent as it was given."""
    registry.inject(Redirect("../x?a=%2F+", 302))
    async with client.get(blob_path(), allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (302, "../x?a=%2F+")


async def test_tags_in_pages(registry: Registry, client: aiohttp.ClientSession) -> None:
    """n and last walk through the tags; Link is relative or absolute."""
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


async def test_referrers_in_pages(registry: Registry, client: aiohttp.ClientSession) -> None:
    """Artifacts are found by their subject, filtered by type when asked."""
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


async def test_narrow_accept(registry: Registry, client: aiohttp.ClientSession) -> None:
    """GHCR's and Quay's manners with an Accept that lacks the type."""
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


async def test_basic_login(registry: Registry, client: aiohttp.ClientSession) -> None:
    """Only the right login opens the gate; a fault leaves the refusal alone."""
    registry.gate = Basic("me", "pässword")
    registry.inject(Status(500), times=1)
    async with client.get(blob_path()) as answer:
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Basic realm="fake"')
    headers = {"Authorization": basic("me", "pässword")}
    for status in (500, 200):
        async with client.get(blob_path(), headers=headers) as answer:
            assert answer.status == status


async def test_bearer_login(registry: Registry, client: aiohttp.ClientSession) -> None:
    """A token opens the scope it was asked for, until it is revoked."""
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


def test_challenges_can_be_spelled_otherwise() -> None:
    """Without service, without quotes, beside others, or with another realm after expiry."""
    tokens = TokenServer()
    gate = Bearer(tokens=tokens, service=None, quoted=False, beside=("Negotiate",), realm_after_expiry="http://other/")
    assert gate.challenges(None, "s") == ["Negotiate", f"Bearer realm={tokens.realm},scope=s"]
    assert gate.challenges("Bearer old", "s") == ["Negotiate", "Bearer realm=http://other/,scope=s"]
    sharing = Bearer(tokens=tokens, service=None, scoped=False, same_line='Basic realm="x", ')
    assert sharing.challenges(None, "s") == [f'Basic realm="x", Bearer realm="{tokens.realm}"']
