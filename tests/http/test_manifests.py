"""Manifests: exact bytes, media types, digests and headers, for every kind of registry."""

import asyncio
from collections.abc import Callable

import pytest
from multidict import CIMultiDict

from tests.fake.answers import Answer, Valve
from tests.fake.content import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Blob,
    Manifest,
    artifact,
    digest_of,
    image,
    index,
)
from tests.fake.faults import Fault, Gzipped, Header, Hold, Resized, Status, Unframed, Without, Wrong
from tests.fake.registry import ghcr, quay
from tests.http.client import Client, Headers, Reply
from tests.http.upstreams import Upstream, by_ns

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALL_TYPES = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)
PASSING = {"Date", "Cache-Status", "Age", "Connection"}  # headers that may differ between two correct responses

KINDS = {
    "OCI image": image(40),
    "Docker image": image(40, docker=True),
    "OCI index": index(image(1), image(2)),
    "Docker list": index(image(3, docker=True), docker=True),
    "artifact": artifact("application/vnd.example.sbom", Blob.noise(9)),
    "unheard-of": Manifest.of(b'{"schemaVersion": 2}', "application/vnd.example.thing.v7+json"),
    "crooked JSON": Manifest.of(b'{ "a":1,\t"a":2,"\\u00e9":[]}\r\n\r\n', OCI_MANIFEST),
}


def check(reply: Reply, manifest: Manifest, body: bool = True) -> None:
    """Check that a response is exactly this manifest."""
    assert reply.status == 200, reply
    assert reply.headers["Content-Type"] == manifest.media_type
    assert reply.headers["Docker-Content-Digest"] == manifest.digest
    assert reply.headers["ETag"] == f'"{manifest.digest}"'
    assert reply.length == manifest.size
    assert "Transfer-Encoding" not in reply.headers
    assert "Content-Encoding" not in reply.headers
    assert reply.body == (manifest.content if body else b"")


@pytest.mark.parametrize("kind", KINDS)
async def test_manifest_of_every_kind_cold_and_cached(client: Client, upstream: Upstream, kind: str) -> None:
    """By tag and by digest, cold and cached, bytes and media type are upstream's."""
    manifest = upstream.publish(KINDS[kind], "v1")
    for reference in ("v1", manifest.digest, "v1", manifest.digest):
        check(await client.get(upstream.manifest(reference)), manifest)
        check(await client.head(upstream.manifest(reference)), manifest, body=False)
    assert len(upstream.registry.of_manifest("*", "GET")) == 1


async def test_pull_by_digest_needs_no_tag(client: Client, upstream: Upstream) -> None:
    """A manifest requested by digest is fetched once."""
    manifest = upstream.publish(image(10))
    for outcome in ("mirror; fwd=uri-miss; stored", "mirror; hit"):
        reply = await client.get(upstream.manifest(manifest))
        check(reply, manifest)
        assert reply.cache_status == outcome
    assert len(upstream.registry.journal) == 1


@pytest.mark.parametrize("spelled", [str, by_ns])
async def test_cold_head_is_complete_and_downloads_nothing(
    client: Client, upstream: Upstream, spelled: Callable[[str], str]
) -> None:
    """containerd begins with HEAD by tag: exact length, type and digest; a GET would count against the pull quota."""
    manifest = upstream.publish(image(10), "v1")
    check(await client.head(spelled(upstream.manifest("v1"))), manifest, body=False)
    assert [seen.method for seen in upstream.registry.journal.entries] == ["HEAD"]
    check(await client.get(spelled(upstream.manifest(manifest))), manifest)
    assert [seen.method for seen in upstream.registry.journal.entries] == ["HEAD", "GET"]


@pytest.mark.parametrize("by_digest", [False, True])
async def test_head_and_get_have_the_same_headers(client: Client, upstream: Upstream, by_digest: bool) -> None:
    """Cold or cached, HEAD and GET have equal headers."""
    manifest = upstream.publish(image(10), "v1")
    target = upstream.manifest(manifest if by_digest else "v1")
    replies = [await client.head(target), await client.get(target), await client.head(target)]
    compared = [{name: value for name, value in reply.headers.items() if name not in PASSING} for reply in replies]
    assert compared[0] == compared[1] == compared[2]


@pytest.mark.parametrize(
    "accept",
    [
        [],
        ["*/*"],
        [DOCKER_MANIFEST],
        [", ".join(ALL_TYPES)],
        list(ALL_TYPES),
        list(reversed(ALL_TYPES)),
        ["application/json"],
        ["text/html;q=0.9, garbage;;;"],
    ],
)
@pytest.mark.parametrize("manners", [None, ghcr, quay])
async def test_upstream_accept_lists_every_media_type(
    client: Client, upstream: Upstream, accept: list[str], manners: Callable[[Manifest], Answer] | None
) -> None:
    """A narrow Accept would be answered with 404 (GHCR) or with a converted manifest (Quay)."""
    upstream.registry.narrow = manners
    manifest = upstream.publish(index(image(1)), "v1")
    headers: Headers = CIMultiDict([("Accept", line) for line in accept])
    check(await client.head(upstream.manifest("v1"), headers), manifest, body=False)
    check(await client.get(upstream.manifest("v1"), headers), manifest)
    check(await client.get(upstream.manifest(manifest), headers), manifest)
    for seen in upstream.registry.journal.entries:
        asked = ",".join(seen.headers.getall("Accept"))
        assert all(kind in asked for kind in ALL_TYPES), asked
        assert seen.headers.get("Accept-Encoding") == "identity"


@pytest.mark.parametrize(
    "faults",
    [
        [Status(405)],
        [Status(403)],
        [Without("Docker-Content-Digest")],
        [Unframed()],
        [Unframed(), Without("Docker-Content-Digest")],
        [Header("Docker-Content-Digest", "nonsense")],
    ],
)
async def test_head_is_completed_by_a_get(client: Client, upstream: Upstream, faults: list[Fault]) -> None:
    """If the upstream HEAD is refused, or lacks digest or length, the mirror sends a GET."""
    manifest = upstream.publish(image(10), "v1")
    for fault in faults:
        upstream.registry.inject(fault, method="HEAD")
    check(await client.head(upstream.manifest("v1")), manifest, body=False)
    check(await client.get(upstream.manifest("v1")), manifest)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_missing_digest_header_is_computed(client: Client, upstream: Upstream, method: str) -> None:
    """ECR sends no Docker-Content-Digest for GET, other registries for neither method."""
    manifest = upstream.publish(image(10), "v1")
    upstream.registry.inject(Without("Docker-Content-Digest"))
    check(await client.ask(method, upstream.manifest("v1")), manifest, body=method == "GET")


async def test_chunked_manifest_is_sent_with_its_length(client: Client, upstream: Upstream) -> None:
    """The mirror never sends manifests chunked."""
    manifest = upstream.publish(image(10), "v1")
    upstream.registry.inject(Unframed())
    check(await client.get(upstream.manifest("v1")), manifest)


async def test_media_type_parameters_are_dropped(client: Client, upstream: Upstream) -> None:
    """Clients compare the media type as a string."""
    manifest = upstream.publish(image(10), "v1")
    upstream.registry.inject(Header("Content-Type", f"{manifest.media_type}; charset=utf-8"))
    check(await client.get(upstream.manifest("v1")), manifest)
    check(await client.get(upstream.manifest(manifest)), manifest)


@pytest.mark.parametrize("fault", [Wrong(at=5), Resized(-1), Resized(1)])
async def test_manifest_with_a_wrong_digest_is_502(client: Client, upstream: Upstream, fault: Fault) -> None:
    """Never 200, never stored; once upstream is right again, the manifest is served."""
    manifest = upstream.publish(image(10))
    upstream.registry.inject(fault)
    reply = await client.get(upstream.manifest(manifest))
    assert reply.status == 502, reply
    assert reply.error["message"]
    upstream.registry.heal()
    check(await client.get(upstream.manifest(manifest)), manifest)


async def test_digest_of_a_tag_matches_its_bytes(client: Client, upstream: Upstream) -> None:
    """The mirror sends the digest of the bytes and ignores upstream's header."""
    manifest = upstream.publish(image(10), "v1")
    upstream.registry.inject(Wrong(at=5), method="GET", times=1)
    reply = await client.get(upstream.manifest("v1"))
    assert reply.status != 200 or reply.headers["Docker-Content-Digest"] == reply.digest, reply
    assert (await client.get(upstream.manifest(manifest))).body == manifest.content


async def test_sha512_manifest(client: Client, upstream: Upstream) -> None:
    """Requested by sha512, verified with it, and served with that digest."""
    manifest = upstream.publish(image(10, algorithm="sha512"))
    assert manifest.digest.startswith("sha512:")
    for _ in range(2):
        check(await client.get(upstream.manifest(manifest)), manifest)
        check(await client.head(upstream.manifest(manifest)), manifest, body=False)
    assert len(upstream.registry.of_manifest("*", "GET")) == 1


async def test_manifest_of_four_mib(client: Client, upstream: Upstream) -> None:
    """The largest size that containerd accepts."""
    manifest = upstream.publish(image(10, tail=4_193_000), "v1")
    assert 4_190_000 < manifest.size < 4_194_304
    check(await client.get(upstream.manifest("v1")), manifest)


async def test_if_none_match_on_a_manifest(client: Client, upstream: Upstream) -> None:
    """304 with ETag and without body if the client has the manifest, else 200."""
    manifest = upstream.publish(image(10), "v1")
    etag = f'"{manifest.digest}"'
    for target in (upstream.manifest("v1"), upstream.manifest(manifest)):
        for matching in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            for method in ("GET", "HEAD"):
                reply = await client.ask(method, target, {"If-None-Match": matching})
                assert (reply.status, reply.body) == (304, b""), (matching, str(reply))
                assert reply.headers["ETag"] == etag
        check(await client.get(target, {"If-None-Match": f'"{digest_of(b"other")}"'}), manifest)
        check(await client.get(target), manifest)


async def test_concurrent_pulls_of_a_tag_are_one_upstream_request(client: Client, upstream: Upstream) -> None:
    """Clients that request a tag being fetched wait for that request."""
    manifest = upstream.publish(image(10), "v1")
    for reply in await asyncio.gather(*(client.get(upstream.manifest("v1")) for _ in range(50))):
        check(reply, manifest)
    assert len(upstream.registry.of_manifest("*", "GET")) == 1
    assert len(upstream.registry.journal) <= 2


async def test_disconnect_of_the_first_client_does_not_stop_the_fetch(client: Client, upstream: Upstream) -> None:
    """The first client of a cold tag disconnects before the response; the second gets it from the same request."""
    manifest = upstream.publish(image(10), "v1")
    valve = Valve()
    upstream.registry.inject(Hold(valve), method="GET")
    first, second = (asyncio.create_task(client.get(upstream.manifest("v1"))) for _ in range(2))
    await valve.reached()
    first.cancel()
    await asyncio.wait([first])
    valve.open()
    check(await second, manifest)
    assert len(upstream.registry.of_manifest("*", "GET")) == 1


async def test_content_encoding_is_neither_requested_nor_sent(client: Client, upstream: Upstream) -> None:
    """Clients that accept gzip or zstd get the bytes of the digest."""
    manifest = upstream.publish(image(10), "v1")
    headers = {"Accept-Encoding": "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5"}
    check(await client.get(upstream.manifest("v1"), headers), manifest)
    assert {seen.headers["Accept-Encoding"] for seen in upstream.registry.journal.entries} == {"identity"}


@pytest.mark.parametrize("by_digest", [False, True])
@pytest.mark.parametrize("bare", [False, True])
async def test_unrequested_content_encoding_of_a_manifest(
    client: Client, upstream: Upstream, by_digest: bool, bare: bool
) -> None:
    """gzip from upstream is decoded or refused; bytes other than the digest's are never served or stored."""
    if bare:
        upstream.registry.inject(Without("Docker-Content-Digest"))
    manifest = upstream.publish(image(10), "v1")
    target = upstream.manifest(manifest if by_digest else "v1")
    upstream.registry.inject(Gzipped(), method="GET")
    reply = await client.get(target, {"Accept-Encoding": "gzip"})
    if reply.status == 200:
        check(reply, manifest)
    else:
        assert reply.status in (502, 503), reply
        assert reply.error["message"]
    upstream.registry.heal()
    check(await client.get(target), manifest)


async def test_range_of_a_manifest(client: Client, upstream: Upstream) -> None:
    """Manifests are served whole, or correctly as 206: never a part with status 200."""
    manifest = upstream.publish(image(10), "v1")
    reply = await client.get(upstream.manifest("v1"), {"Range": "bytes=0-9"})
    expected = {200: manifest.content, 206: manifest.content[:10]}
    assert reply.body == expected[reply.status]
