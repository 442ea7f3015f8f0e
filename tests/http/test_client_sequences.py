"""Request sequences of clients that are not installed here, with the checks that each makes on the responses."""

import json
from collections.abc import Mapping, Sequence

import pytest
from multidict import CIMultiDict

from tests.fake.content import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Blob,
    Manifest,
    artifact,
    descriptor,
    image,
    index,
)
from tests.http.client import Client, Headers, Reply
from tests.http.upstreams import Upstream, by_ns

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+json"
SCHEMA_1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"
HELM_CONFIG = "application/vnd.cncf.helm.config.v1+json"
HELM_CHART = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
HELM_PROVENANCE = "application/vnd.cncf.helm.chart.provenance.v1.prov"
SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGSTORE_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
GGCR_ACCEPT = ",".join([SCHEMA_1, SCHEMA_1_SIGNED, DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX])


def header_lines(name: str, values: Sequence[str], more: Mapping[str, str] | None = None) -> Headers:
    """Return several header lines of one name, as dockerd and podman send Accept."""
    return CIMultiDict([*((name, value) for value in values), *(more or {}).items()])


def assert_manifest(reply: Reply, manifest: Manifest, body: bool = True) -> None:
    """Check a manifest as all clients do: status, type, length, digest and bytes, each exactly."""
    assert reply.status == 200, reply
    assert reply.headers["Content-Type"] == manifest.media_type
    assert reply.length == manifest.size
    assert reply.headers["Docker-Content-Digest"] == manifest.digest
    assert reply.body == (manifest.content if body else b"")


def assert_blob(reply: Reply, blob: Blob) -> None:
    """Check a blob: 200 (no other success is accepted), the length in the manifest, the digest's bytes."""
    assert (reply.status, reply.whole) == (200, True), reply
    assert reply.length == blob.size
    assert reply.body == blob.content
    assert "Content-Encoding" not in reply.headers


def assert_pingable(reply: Reply) -> None:
    """Check the response to /v2/: 200 without a challenge."""
    assert (reply.status, "WWW-Authenticate" in reply.headers) == (200, False), reply


async def test_crane_pull(client: Client, upstream: Upstream) -> None:
    """`crane digest` by HEAD, `crane pull` by tag: /v2/, the index, the platform's manifest, its config and layers.

    One Accept line for all types; 200 is the only success of a blob, and no Range is sent.
    """
    ours = image(1000, 70_000)
    both = upstream.publish(index(ours, image(5)), "v1")
    agent = {"User-Agent": "crane/0.20.6 go-containerregistry/0.20.6", "Accept-Encoding": "gzip"}
    accept = {**agent, "Accept": GGCR_ACCEPT}
    for _ in ("cold", "warm"):
        assert_pingable(await client.get("/v2/", agent))
        assert_manifest(await client.head(upstream.manifest("v1"), accept), both, body=False)
        assert_manifest(await client.get(upstream.manifest("v1"), accept), both)
        assert_manifest(await client.get(upstream.manifest(ours), {**agent, "Accept": ours.media_type}), ours)
        for blob in ours.blobs:
            assert_blob(await client.get(upstream.blob(blob), agent), blob)
    assert len(upstream.registry.journal.of("GET", "*/blobs/*")) == len(ours.blobs)


async def test_crane_lists_tags(client: Client, upstream: Upstream) -> None:
    """`crane ls`: a thousand per page, and a Link that keeps scheme and host of the request."""
    upstream.publish(image(1), *(f"v{number}" for number in range(5)))
    upstream.registry.page_size, upstream.registry.absolute_links = 3, True
    target, found = f"/v2/{upstream.name}/team/app/tags/list?n=1000", []
    while target:
        reply = await client.get(target)
        assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json"), reply
        found += json.loads(reply.body)["tags"]
        link = reply.headers.get("Link", "")
        target = link.partition("<")[2].partition(">")[0]
        assert target.startswith("/v2/") or not link, link
    assert found == [f"v{number}" for number in range(5)]


async def test_oras_pull(client: Client, upstream: Upstream) -> None:
    """`oras pull` of an artifact: HEAD by tag, GET by digest with its one type, blobs; then a seek by Range; no /v2/.

    The digest of a response must be the requested one, and `Accept-Ranges: bytes` promises a 206.
    """
    payload = Blob.noise(50_000)
    report = upstream.publish(artifact("application/vnd.test.report.v1", payload), "v1")
    agent = {"User-Agent": "oras/1.2.3"}
    every = {**agent, "Accept": ", ".join([DOCKER_MANIFEST, DOCKER_LIST, OCI_INDEX, OCI_MANIFEST])}
    for _ in ("cold", "warm"):
        assert_manifest(await client.head(upstream.manifest("v1"), every), report, body=False)
        exact = {**agent, "Accept": report.media_type}
        assert_manifest(await client.get(upstream.manifest(report), exact), report)
        for blob in report.blobs:
            reply = await client.get(upstream.blob(blob), agent)
            assert_blob(reply, blob)
            assert reply.headers["Accept-Ranges"] == "bytes"
            assert reply.headers["Docker-Content-Digest"] == blob.digest
        part = await client.get(upstream.blob(payload), {**agent, "Range": f"bytes=40000-{payload.size - 1}"})
        assert (part.status, part.body) == (206, payload.content[40_000:]), part
        assert part.length == 10_000
    assert len(upstream.registry.journal.of("GET", "*/blobs/*")) == len(report.blobs)


async def test_oras_pull_by_sha512(client: Client, upstream: Upstream) -> None:
    """The digest of a response has the requested algorithm."""
    manifest = upstream.publish(image(1000, algorithm="sha512"))
    for _ in ("cold", "warm"):
        assert_manifest(await client.head(upstream.manifest(manifest)), manifest, body=False)
        assert_manifest(await client.get(upstream.manifest(manifest), {"Accept": manifest.media_type}), manifest)
        for blob in manifest.blobs:
            reply = await client.get(upstream.blob(blob))
            assert_blob(reply, blob)
            assert reply.headers["Docker-Content-Digest"] == blob.digest


async def test_oras_discover(client: Client, upstream: Upstream) -> None:
    """The media type is exactly the OCI index, the filter is reported as applied; else the fallback tag is used."""
    subject = upstream.publish(image(10), "v1")
    sbom = upstream.publish(artifact("application/spdx+json", Blob.noise(30), subject))
    upstream.publish(artifact("application/vnd.other", Blob.noise(30), subject))
    target = f"/v2/{upstream.name}/team/app/referrers/{subject.digest}?artifactType=application%2Fspdx%2Bjson"
    reply = await client.get(target, {"Accept": OCI_INDEX})
    assert (reply.status, reply.headers["Content-Type"]) == (200, OCI_INDEX), reply
    assert reply.headers["OCI-Filters-Applied"] == "artifactType"
    assert [entry["digest"] for entry in json.loads(reply.body)["manifests"]] == [sbom.digest]
    assert_manifest(await client.get(upstream.manifest(sbom), {"Accept": OCI_MANIFEST}), sbom)

    upstream.registry.has_referrers = False
    attached = upstream.publish(index(sbom), f"sha256-{subject.digest.partition(':')[2]}")
    missing = await client.get(target, {"Accept": OCI_INDEX})
    assert missing.status == 404
    assert missing.error["code"] != "NAME_UNKNOWN"
    tag = upstream.manifest(f"sha256-{subject.digest.partition(':')[2]}")
    assert_manifest(await client.head(tag), attached, body=False)
    assert_manifest(await client.get(upstream.manifest(attached), {"Accept": OCI_INDEX}), attached)


def chart() -> Manifest:
    """Return a Helm chart with its provenance."""
    config = Blob.of(json.dumps({"name": "app", "version": "1.2.3", "apiVersion": "v2"}).encode() + b" ")
    content, provenance = Blob.noise(20_000), Blob.noise(800)
    body: dict[str, object] = {
        "schemaVersion": 2,
        "config": descriptor(config, HELM_CONFIG),
        "layers": [descriptor(provenance, HELM_PROVENANCE), descriptor(content, HELM_CHART)],
        "annotations": {"org.opencontainers.image.title": "app"},
    }
    return Manifest.of(body, OCI_MANIFEST, blobs=(config, content, provenance))


async def test_helm_pull(client: Client, upstream: Upstream) -> None:
    """`helm pull oci://…` of a version range: tags page by page, HEAD, manifest by digest, config, chart, provenance.

    The manifest of a chart has no mediaType field: its type is known from the header only, also when cached.
    """
    app = upstream.publish(chart(), "1.2.1", "1.2.2", "1.2.3")
    upstream.registry.page_size = 2
    agent = {"User-Agent": "Helm/3.17.0"}
    target, versions = f"/v2/{upstream.name}/team/app/tags/list", []
    while target:
        reply = await client.get(target, agent)
        assert reply.status == 200, reply
        versions += json.loads(reply.body)["tags"]
        target = reply.headers.get("Link", "").partition("<")[2].partition(">")[0]
    assert versions == ["1.2.1", "1.2.2", "1.2.3"]
    for _ in ("cold", "warm"):
        accept = {**agent, "Accept": f"{DOCKER_MANIFEST}, {OCI_MANIFEST}, */*"}
        assert_manifest(await client.head(upstream.manifest("1.2.3"), accept), app, body=False)
        assert_manifest(await client.get(upstream.manifest(app), {**agent, "Accept": OCI_MANIFEST}), app)
        for blob in app.blobs:
            assert_blob(await client.get(upstream.blob(blob), agent), blob)
    assert len(upstream.registry.journal.of("GET", "*/blobs/*")) == len(app.blobs)


def signature(subject: Manifest) -> Manifest:
    """Return the manifest that `cosign sign` pushes under the tag `sha256-….sig`."""
    claim = {
        "critical": {"image": {"docker-manifest-digest": subject.digest}, "type": "cosign container image signature"}
    }
    payload = Blob.of(json.dumps(claim).encode())
    config = Blob.of(json.dumps({"architecture": "", "os": "", "of": subject.digest}).encode())
    layer = {**descriptor(payload, SIMPLE_SIGNING), "annotations": {"dev.cosignproject.cosign/signature": "MEUCIQ=="}}
    body: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(config, "application/vnd.oci.image.config.v1+json"),
        "layers": [layer],
    }
    return Manifest.of(body, OCI_MANIFEST, blobs=(config, payload))


async def test_cosign_verify(client: Client, upstream: Upstream) -> None:
    """The tag's digest, `sha256-….sig`, its payload and config; a missing `.att` is 404."""
    signed = upstream.publish(image(1000), "v1")
    stem = signed.digest.replace(":", "-")
    proof = upstream.publish(signature(signed), f"{stem}.sig")
    accept = {"Accept": GGCR_ACCEPT, "User-Agent": "cosign/v2.4.1"}
    for _ in ("cold", "warm"):
        assert_pingable(await client.get("/v2/"))
        assert_manifest(await client.head(upstream.manifest("v1"), accept), signed, body=False)
        assert_manifest(await client.get(upstream.manifest(f"{stem}.sig"), accept), proof)
        for blob in proof.blobs:
            assert_blob(await client.get(upstream.blob(blob)), blob)
        absent = await client.get(upstream.manifest(f"{stem}.att"), accept)
        assert (absent.status, absent.error["code"]) == (404, "MANIFEST_UNKNOWN")


async def test_cosign_verify_by_referrers(client: Client, upstream: Upstream) -> None:
    """Newer bundles are referrers of the image: the list, the bundle's manifest, its one blob."""
    signed = upstream.publish(image(1000), "v1")
    bundle = upstream.publish(artifact(SIGSTORE_BUNDLE, Blob.noise(5000), signed))
    assert_manifest(await client.head(upstream.manifest("v1"), {"Accept": GGCR_ACCEPT}), signed, body=False)
    listed = await client.get(f"/v2/{upstream.name}/team/app/referrers/{signed.digest}", {"Accept": OCI_INDEX})
    assert (listed.status, listed.headers["Content-Type"]) == (200, OCI_INDEX), listed
    (entry,) = json.loads(listed.body)["manifests"]
    assert (entry["digest"], entry["artifactType"]) == (bundle.digest, SIGSTORE_BUNDLE)
    assert_manifest(await client.get(upstream.manifest(str(entry["digest"])), {"Accept": GGCR_ACCEPT}), bundle)
    assert_blob(await client.get(upstream.blob(bundle.blobs[1])), bundle.blobs[1])


async def test_cosign_gets_no_404_in_an_outage(client: Client, upstream: Upstream) -> None:
    """404 would mean unsigned: in an outage, list and tag are 503."""
    signed = upstream.publish(image(1000), "v1")
    assert (await client.get(upstream.manifest("v1"))).status == 200
    await upstream.registry.go_down()
    for target in (
        f"/v2/{upstream.name}/team/app/referrers/{signed.digest}",
        upstream.manifest(f"{signed.digest.replace(':', '-')}.sig"),
    ):
        assert (await client.get(target)).status in (503, 504)


async def test_dockerd_before_29(client: Client, upstream: Upstream) -> None:
    """20.10 to 28: /v2/, HEAD by tag, GET by digest, several Accept lines, a connection for each request.

    An interrupted layer is resumed by Range; Content-Range must end at the last byte.
    """
    manifest = upstream.publish(image(60_000, docker=True), "v1")
    once = {"Connection": "close", "User-Agent": "docker/24.0.7 go/go1.20.10"}
    accept = header_lines(
        "Accept", [OCI_INDEX, SCHEMA_1_SIGNED, "application/json", DOCKER_LIST, DOCKER_MANIFEST], once
    )
    for _ in ("cold", "warm"):
        assert_pingable(await client.get("/v2/", once))
        assert_manifest(await client.head(upstream.manifest("v1"), accept), manifest, body=False)
        assert_manifest(await client.get(upstream.manifest("v1"), accept), manifest)
        assert_manifest(await client.get(upstream.manifest(manifest), accept), manifest)
        for blob in manifest.blobs:
            reply = await client.get(upstream.blob(blob), once)
            assert_blob(reply, blob)
            assert reply.headers["Connection"] == "close"
        layer = manifest.blobs[1]
        rest = await client.get(upstream.blob(layer), {**once, "Range": "bytes=20000-"})
        assert (rest.status, rest.body) == (206, layer.content[20_000:]), rest
        assert rest.headers["Content-Range"] == f"bytes 20000-{layer.size - 1}/{layer.size}"


async def test_containerd_pull(client: Client, upstream: Upstream) -> None:
    """HEAD by tag with ns, manifests by digest with one type, layers from byte 0 as 206; no /v2/, no login."""
    ours = image(1000, 2 * MIB)
    both = upstream.publish(index(ours), "v1")
    every = {"Accept": f"{DOCKER_MANIFEST}, {DOCKER_LIST}, {OCI_MANIFEST}, {OCI_INDEX}, */*"}
    encoding = {"Accept-Encoding": "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5"}
    for _ in ("cold", "warm"):
        head = await client.head(by_ns(upstream.manifest("v1")), every)
        assert_manifest(head, both, body=False)
        assert head.headers["OCI-Namespace"] == upstream.name
        for manifest in (both, ours):
            exact = {"Accept": f"{manifest.media_type}, */*", **encoding}
            assert_manifest(await client.get(by_ns(upstream.manifest(manifest)), exact), manifest)
        for blob in ours.blobs:
            reply = await client.get(by_ns(upstream.blob(blob)), {"Range": "bytes=0-", **encoding})
            assert (reply.status, reply.whole, reply.body) == (206, True, blob.content), reply
            assert reply.headers["Content-Range"] == f"bytes 0-{blob.size - 1}/{blob.size}"
            assert reply.length == blob.size
            assert "Content-Encoding" not in reply.headers
    assert len(upstream.registry.journal.of("GET", "*/blobs/*")) == len(ours.blobs)


async def test_containerd_digest_of_unknown_kind(client: Client, upstream: Upstream) -> None:
    """HEAD of a manifest by digest, and after a 404, HEAD of the blob."""
    manifest = upstream.publish(image(1000))
    layer = manifest.blobs[1]
    assert_manifest(await client.head(by_ns(upstream.manifest(manifest))), manifest, body=False)
    assert (await client.head(by_ns(upstream.manifest(layer.digest)))).status == 404
    reply = await client.head(by_ns(upstream.blob(layer)))
    assert (reply.status, reply.length, reply.headers["Docker-Content-Digest"]) == (200, layer.size, layer.digest)


async def test_buildkit_fetches_layers_after_the_tag_moved(client: Client, upstream: Upstream) -> None:
    """The registry in the path and in ns; the layers of an image are requested after its tag has moved."""
    old = upstream.publish(image(1000, 5000), "v1")
    target = f"{upstream.manifest('v1')}?ns={upstream.name}"
    assert_manifest(await client.head(target), old, body=False)
    assert_manifest(await client.get(f"{upstream.manifest(old)}?ns={upstream.name}"), old)
    assert_blob(await client.get(f"{upstream.blob(old.blobs[0])}?ns={upstream.name}"), old.blobs[0])
    upstream.publish(image(2000), "v1")
    for blob in old.blobs[1:]:
        assert_blob(await client.get(f"{upstream.blob(blob)}?ns={upstream.name}"), blob)


async def test_podman_partial_pull(client: Client, upstream: Upstream) -> None:
    """Six Accept lines; several ranges of a layer in one request; the rest of an interrupted body as 206."""
    manifest = upstream.publish(image(300_000), "v1")
    layer = manifest.blobs[1]
    types = [OCI_MANIFEST, DOCKER_MANIFEST, SCHEMA_1_SIGNED, SCHEMA_1, DOCKER_LIST, OCI_INDEX]
    accept = header_lines("Accept", types, {"Docker-Distribution-Api-Version": "registry/2.0"})
    assert_pingable(await client.get("/v2/", {"Docker-Distribution-Api-Version": "registry/2.0"}))
    assert_manifest(await client.get(upstream.manifest("v1"), accept), manifest)
    assert_blob(await client.get(upstream.blob(manifest.blobs[0])), manifest.blobs[0])
    parts = await client.get(upstream.blob(layer), {"Range": "bytes=0-99,1000-1999,299000-"})
    assert parts.status in (200, 206, 400), parts
    if parts.status == 206:
        assert parts.headers["Content-Type"].startswith("multipart/byteranges")
        assert parts.body.count(b"Content-Range: ") == 3
    assert_blob(await client.get(upstream.blob(layer)), layer)
    several = await client.get(upstream.blob(layer), {"Range": "bytes=0-99,1000-1999,299000-"})
    assert (several.status, several.body.count(b"Content-Range: ")) == (206, 3), several
    rest = await client.get(upstream.blob(layer), {"Range": "bytes=123456-"})
    assert (rest.status, rest.body) == (206, layer.content[123_456:])
    assert rest.headers["Content-Range"] == f"bytes 123456-{layer.size - 1}/{layer.size}"
    unsigned = await client.get(upstream.manifest(f"{manifest.digest.replace(':', '-')}.sig"), accept)
    assert unsigned.status == 404


async def test_nydus_ranges(client: Client, upstream: Upstream) -> None:
    """A blob's size by HEAD, then small ranges with both ends, cold, in any order."""
    blob = upstream.publish_blob(Blob.noise(MIB))
    head = await client.head(upstream.blob(blob))
    assert (head.status, head.length) == (200, blob.size)
    for first in (MIB - 4096, 0, 512 * 1024):
        reply = await client.get(upstream.blob(blob), {"Range": f"bytes={first}-{first + 4095}"})
        assert (reply.status, reply.body) == (206, blob.content[first : first + 4096]), reply
