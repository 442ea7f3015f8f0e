"""Blobs, cold and cached, by GET and HEAD, of every size and kind."""

import asyncio
import hashlib
from pathlib import Path

import pytest

from tests.fake.content import Blob, digest_of, image
from tests.fake.faults import Gzipped, Header, Overrun, Status, Unframed, Without
from tests.fake.registry import Registry
from tests.http.client import Client, Reply, wait_until_cached
from tests.http.upstreams import Upstream, by_ns
from tests.real.mirror import Mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20
PASSING = {"Date", "Cache-Status", "Age", "Connection"}


def check(reply: Reply, blob: Blob, body: bool = True) -> None:
    """Check that a response is exactly this blob."""
    assert (reply.status, reply.whole) == (200, True), reply
    assert reply.headers["Docker-Content-Digest"] == blob.digest
    assert reply.headers["ETag"] == f'"{blob.digest}"'
    assert reply.headers["Accept-Ranges"] == "bytes"
    assert reply.headers["Content-Type"] == "application/octet-stream"
    assert reply.length == blob.size
    assert "Content-Encoding" not in reply.headers
    assert reply.body == (blob.content if body else b"")


def stored_at(mirror: Mirror, blob: Blob) -> Path:
    """Return the path at which the mirror stores this blob."""
    algorithm, _, name = blob.digest.partition(":")
    return mirror.program.log.parent / "cache" / "blobs" / algorithm / name


@pytest.mark.parametrize("size", [0, 1, 10, 65_535, 65_536, 65_537, MIB, 8 * MIB + 1])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_cold_blob_is_stored_then_hit(
    client: Client, upstream: Upstream, mirror: Mirror, size: int, algorithm: str
) -> None:
    """One upstream request, whatever the size; the stored file is the blob, and read-only."""
    blob = upstream.publish_blob(Blob.noise(size, algorithm) if size else Blob.of(b"", algorithm))
    for outcome in ("mirror; fwd=uri-miss; stored", "mirror; hit"):
        reply = await client.get(upstream.blob(blob))
        check(reply, blob)
        assert reply.cache_status == outcome
        await wait_until_cached(client, upstream.blob(blob))
    check(await client.head(upstream.blob(blob)), blob, body=False)
    assert len(upstream.registry.of_blob(blob)) == 1
    assert stored_at(mirror, blob).read_bytes() == blob.content
    assert stored_at(mirror, blob).stat().st_mode & 0o222 == 0


async def test_upstream_request_has_accept_encoding_identity(client: Client, upstream: Upstream) -> None:
    """The mirror requests identity whatever the client accepts, and the client gets no encoding."""
    blob = upstream.publish_blob(Blob.noise(1000))
    headers = {"Accept-Encoding": "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5"}
    for _ in range(2):
        check(await client.get(upstream.blob(blob), headers), blob)
    assert {seen.headers["Accept-Encoding"] for seen in upstream.registry.journal.entries} == {"identity"}


async def test_cold_head_downloads_nothing(client: Client, upstream: Upstream) -> None:
    """A HEAD is sent upstream as HEAD; the GET follows only with the client's GET."""
    blob = upstream.publish_blob(Blob.noise(MIB))
    for target in (upstream.blob(blob), by_ns(upstream.blob(blob))):
        check(await client.head(target), blob, body=False)
    assert not upstream.registry.of_blob(blob, "GET")
    check(await client.get(upstream.blob(blob)), blob)
    assert len(upstream.registry.of_blob(blob, "GET")) == 1


async def test_head_and_get_have_the_same_headers(client: Client, upstream: Upstream) -> None:
    """Cold or cached, HEAD and GET have equal headers."""
    blob = upstream.publish_blob(Blob.noise(1000))
    target = upstream.blob(blob)
    replies = [await client.head(target), await client.get(target), await client.head(target)]
    compared = [{name: value for name, value in reply.headers.items() if name not in PASSING} for reply in replies]
    assert compared[0] == compared[1] == compared[2]


@pytest.mark.parametrize("fault", [Status(403), Status(405), Unframed(), Without("Docker-Content-Digest")])
async def test_head_when_upstream_head_is_refused_or_incomplete(
    client: Client, upstream: Upstream, fault: Status
) -> None:
    """Storage that refuses HEAD, registries that omit the length: the reply is complete, without a download."""
    blob = upstream.publish_blob(Blob.noise(8 * MIB))
    upstream.registry.inject(fault, method="HEAD")
    check(await client.head(upstream.blob(blob)), blob, body=False)
    assert sum(seen.sent for seen in upstream.registry.of_blob(blob)) < blob.size
    check(await client.get(upstream.blob(blob)), blob)


@pytest.mark.parametrize("length", ["0", "7"])
async def test_head_when_upstream_length_is_wrong(client: Client, upstream: Upstream, length: str) -> None:
    """The manifest gives the size of its blobs, and overrides the length that upstream sends."""
    manifest = upstream.publish(image(1000), "v1")
    assert (await client.get(upstream.manifest("v1"))).status == 200
    upstream.registry.inject(Header("Content-Length", length), method="HEAD")
    for blob in manifest.blobs:
        check(await client.head(upstream.blob(blob)), blob, body=False)


async def test_missing_blob_is_404(client: Client, upstream: Upstream) -> None:
    """404 for GET and HEAD, as JSON."""
    upstream.publish_blob(Blob.noise(3))
    missing = Blob.noise(4)
    got, headed = await client.get(upstream.blob(missing)), await client.head(upstream.blob(missing))
    assert (got.status, got.error["code"]) == (404, "BLOB_UNKNOWN")
    assert (headed.status, headed.body) == (404, b"")


@pytest.mark.parametrize("digest", ["sha384:" + "0" * 96, "blake3:" + "0" * 64, "sha256:xyz", "sha256:"])
async def test_unverifiable_digest_is_refused(client: Client, upstream: Upstream, digest: str) -> None:
    """The error has its own code, and no upstream request is made."""
    reply = await client.get(upstream.blob(digest))
    assert reply.status in (400, 404), reply
    assert reply.error["code"] in ("DIGEST_INVALID", "UNSUPPORTED")
    assert len(upstream.registry.journal) == 0


async def test_blob_without_length_is_served_and_stored(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """A chunked response is served whole, verified, and stored like any other."""
    blob = upstream.publish_blob(Blob.noise(MIB))
    upstream.registry.inject(Unframed())
    reply = await client.get(upstream.blob(blob))
    assert (reply.status, reply.whole, reply.body) == (200, True, blob.content), reply
    check(await client.get(upstream.blob(blob)), blob)
    assert len(upstream.registry.of_blob(blob)) == 1
    await wait_until_cached(client, upstream.blob(blob))
    assert stored_at(mirror, blob).exists()


async def test_bytes_after_the_declared_end_are_dropped(client: Client, upstream: Upstream) -> None:
    """Junk after the declared length is dropped, and disturbs no later request."""
    blob, other = (upstream.publish_blob(Blob.noise(MIB)) for _ in range(2))
    upstream.registry.inject(Overrun(), times=1)
    check(await client.get(upstream.blob(blob)), blob)
    check(await client.get(upstream.blob(other)), other)


async def test_unrequested_content_encoding(client: Client, upstream: Upstream) -> None:
    """gzip from upstream is decoded or refused; the client never gets bytes other than the digest's."""
    blob = upstream.publish_blob(Blob.of(b"compressible " * 10_000))
    upstream.registry.inject(Gzipped())
    length = (await client.head(upstream.blob(blob))).headers.get("Content-Length")
    assert length in {None, str(blob.size)}
    reply = await client.get(upstream.blob(blob))
    if reply.status == 200 and reply.whole:
        check(reply, blob)
    upstream.registry.heal()
    check(await client.get(upstream.blob(blob)), blob)


@pytest.mark.parametrize("kind", ["application/json", "text/plain; charset=utf-8", "application/gzip"])
async def test_blob_media_type_is_octet_stream(client: Client, upstream: Upstream, kind: str) -> None:
    """A blob has one media type, whatever upstream sends."""
    blob = upstream.publish_blob(Blob.of(kind.encode()))
    upstream.registry.inject(Header("Content-Type", kind))
    for _ in range(2):
        check(await client.get(upstream.blob(blob)), blob)


async def test_shared_layer_is_downloaded_once(client: Client, upstream: Upstream) -> None:
    """Repositories share the store: for the second one, upstream is only asked whether it has the blob."""
    blob = upstream.publish_blob(Blob.noise(MIB))
    upstream.registry.add("other/app", blob)
    check(await client.get(upstream.blob(blob)), blob)
    check(await client.get(f"/v2/{upstream.name}/other/app/blobs/{blob.digest}"), blob)
    assert sum(seen.sent for seen in upstream.registry.of_blob(blob)) == blob.size


async def test_shared_layer_is_downloaded_once_concurrently(client: Client, upstream: Upstream) -> None:
    """The same while the download is in progress."""
    blob = upstream.publish_blob(Blob.noise(4 * MIB))
    upstream.registry.add("other/app", blob)
    targets = (upstream.blob(blob), f"/v2/{upstream.name}/other/app/blobs/{blob.digest}")
    for reply in await asyncio.gather(*(client.get(target) for target in targets * 5)):
        check(reply, blob)
    assert sum(seen.sent for seen in upstream.registry.of_blob(blob)) == blob.size


async def test_cached_blob_is_404_in_a_repository_without_it(client: Client, upstream: Upstream, hub: Registry) -> None:
    """Cached bytes grant no access: the upstream must confirm that the requested repository has the blob."""
    blob = upstream.publish_blob(Blob.noise(1000))
    check(await client.get(upstream.blob(blob)), blob)
    upstream.registry.repository("other/app")
    for target in (f"/v2/{upstream.name}/other/app/blobs/{blob.digest}", f"/v2/other/app/blobs/{blob.digest}"):
        for method in ("GET", "HEAD"):
            assert (await client.ask(method, target)).status == 404


async def test_cached_blob_is_not_served_as_a_manifest(client: Client, upstream: Upstream) -> None:
    """Blobs and manifests share the store, but a cached layer does not answer a manifest request."""
    blob = upstream.publish_blob(Blob.noise(1000))
    check(await client.get(upstream.blob(blob)), blob)
    assert (await client.get(upstream.manifest(blob.digest))).status == 404


async def test_if_none_match_on_a_blob(client: Client, upstream: Upstream) -> None:
    """304 for a cached and for a cold blob; 200 when the client has another digest."""
    blob = upstream.publish_blob(Blob.noise(1000))
    validator = {"If-None-Match": f'"{blob.digest}"'}
    assert (await client.get(upstream.blob(blob), validator)).status == 304
    check(await client.get(upstream.blob(blob), {"If-None-Match": f'"{digest_of(b"")}"'}), blob)
    reply = await client.get(upstream.blob(blob), validator)
    assert (reply.status, reply.body, reply.headers["ETag"]) == (304, b"", f'"{blob.digest}"')


async def test_escaped_colon_in_a_digest(client: Client, upstream: Upstream) -> None:
    """Some clients escape the digest's colon; it is the same blob."""
    blob = upstream.publish_blob(Blob.noise(1000))
    for _ in range(2):
        check(await client.get(upstream.blob(blob).replace("sha256:", "sha256%3A")), blob)
    check(await client.get(upstream.blob(blob)), blob)
    assert len(upstream.registry.of_blob(blob)) == 1


async def test_deleted_blob_file_is_downloaded_again(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """A deleted file is a miss, for HEAD too; no 200 without bytes."""
    blob = upstream.publish_blob(Blob.noise(1000))
    check(await client.get(upstream.blob(blob)), blob)
    await wait_until_cached(client, upstream.blob(blob))
    stored_at(mirror, blob).unlink()
    check(await client.get(upstream.blob(blob)), blob)
    assert len(upstream.registry.of_blob(blob)) == 2
    await wait_until_cached(client, upstream.blob(blob))
    assert stored_at(mirror, blob).read_bytes() == blob.content


async def test_many_concurrent_blobs(client: Client, upstream: Upstream) -> None:
    """An image of sixty layers: every layer is right, with one request each."""
    blobs = [upstream.publish_blob(Blob.noise(20_000 + number)) for number in range(60)]
    replies = await asyncio.gather(*(client.get(upstream.blob(blob)) for blob in blobs))
    assert [hashlib.sha256(reply.body).hexdigest() for reply in replies] == [blob.hex for blob in blobs]
    assert len(upstream.registry.journal) == 60
