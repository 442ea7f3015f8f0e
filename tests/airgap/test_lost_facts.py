"""A cache whose fact database was lost serves its images all the same: index.json names them."""

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.airgap.command import succeeded
from tests.fake.content import Blob, Manifest, artifact, image, index
from tests.fake.registry import Registry
from tests.http.client import Client
from tests.real.mirror import mirror

REPOSITORY = "team/app"
REF_NAME = "org.opencontainers.image.ref.name"


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    """Docker Hub, for the connected side."""
    async with Registry.running() as registry:
        yield registry


async def warmed(registry: Registry, cache: Path) -> tuple[Manifest, Manifest, Manifest]:
    """Warm a cache with an index, an image and a referrer of it, and pin the index."""
    child = image(1000, 2000)
    many, one = index(child, index(image(1500))), image(3000)
    sbom = artifact("x/sbom", Blob.noise(40), one)
    registry.publish(REPOSITORY, many, "many")
    registry.publish(REPOSITORY, one, "v1")
    registry.publish(REPOSITORY, sbom)
    upstream = ("--cache", cache, "--upstream", f"docker.io={registry.url}")
    await succeeded("warm", f"{REPOSITORY}:many", f"{REPOSITORY}:v1", f"{REPOSITORY}@{sbom.digest}", *upstream)
    await succeeded("pin", f"{REPOSITORY}:many", "--cache", cache)
    return many, one, sbom


async def check_pulls(client: Client, manifest: Manifest, *references: str) -> None:
    """Pull an image by these references and by digest, with its children and every blob."""
    for reference in (manifest.digest, *references):
        reply = await client.get(f"/v2/{REPOSITORY}/manifests/{reference}")
        assert (reply.status, reply.body) == (200, manifest.content), reply
        assert reply.headers["Content-Type"] == manifest.media_type
    for child in manifest.children:
        await check_pulls(client, child)
    for blob in manifest.blobs:
        reply = await client.get(f"/v2/{REPOSITORY}/blobs/{blob.digest}")
        assert (reply.status, reply.body) == (200, blob.content), reply


async def listed(cache: Path) -> dict[str, bool]:
    """Return the images of a cache, and whether each is pinned."""
    said = await succeeded("ls", "--json", "--cache", cache)
    return {one["name"]: one["pinned"] for one in json.loads(said.out)}


@pytest.mark.parametrize("how", ["warmed", "imported"])
async def test_cache_without_fact_database_serves_every_image_offline(
    tmp_path: Path, registry: Registry, how: str
) -> None:
    """By tag, child and blob, warmed or imported; pins too. Other repositories get nothing."""
    cache = tmp_path / "near"
    many, one, sbom = await warmed(registry, cache)
    if how == "imported":
        bundle = tmp_path / "bundle.tar"
        await succeeded("export", "-o", bundle, "--all", "--cache", cache)
        cache = tmp_path / "far"
        await succeeded("import", bundle, "--cache", cache)
    await registry.go_down()
    before = await listed(cache)
    shutil.rmtree(cache / "ledger")

    async with (
        mirror(tmp_path / "run", "--cache", str(cache), "--offline") as offline,
        Client.of(offline.url) as client,
    ):
        await check_pulls(client, many, "many")
        await check_pulls(client, one, "v1")
        if how == "imported":
            await check_pulls(client, sbom)
            referrers = await client.get(f"/v2/{REPOSITORY}/referrers/{one.digest}")
            assert [found["digest"] for found in json.loads(referrers.body)["manifests"]] == [sbom.digest]
        assert (await client.get(f"/v2/other/app/manifests/{one.digest}")).status == 404
        assert (await client.get(f"/v2/other/app/blobs/{one.blobs[0].digest}")).status == 404
        named = {name: pinned for name, pinned in before.items() if how == "imported" or "@" not in name}
        assert await listed(cache) == named


async def test_index_names_images_and_pins(tmp_path: Path, registry: Registry) -> None:
    """Each command writes them for other programs: as descriptors of stored manifests under full names."""
    cache = tmp_path / "cache"
    many, one, sbom = await warmed(registry, cache)
    first, second = f"docker.io/{REPOSITORY}:many", f"docker.io/{REPOSITORY}:v1"
    attached = f"docker.io/{REPOSITORY}@{sbom.digest}"

    def names() -> dict[str, dict[str, object]]:
        document = json.loads((cache / "index.json").read_bytes())
        return {found["annotations"][REF_NAME]: found for found in document["manifests"]}

    def pins() -> set[str]:
        return {name for name, entry in names().items() if "vnd.oci-mirror.pinned" in str(entry["annotations"])}

    found = names()
    assert found.keys() == {first, second, attached}
    for name, manifest in ((first, many), (second, one), (attached, sbom)):
        entry = found[name]
        assert (entry["digest"], entry["size"]) == (manifest.digest, len(manifest.content))
        assert entry["mediaType"] == manifest.media_type
    assert pins() == {first}
    await succeeded("pin", f"{REPOSITORY}:v1", "--cache", cache)
    assert pins() == {first, second}
    await succeeded("rm", f"{REPOSITORY}:many", "--cache", cache)
    assert names().keys() == {second, attached}


HOSTILE = {
    "not JSON": b"\0\xff{",
    "too deep": b'{"manifests":' + b"[" * 10**5,
    "a list": b"[1, 2]",
    "empty": b"",
    "another program's": json.dumps({"schemaVersion": 2, "manifests": [{"digest": "sha256:0", "size": "x"}]}).encode(),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
async def test_damaged_index_stops_no_start(tmp_path: Path, registry: Registry, content: bytes) -> None:
    """The mirror starts with any content of index.json, which grants nothing."""
    cache = tmp_path / "cache"
    _, one, _ = await warmed(registry, cache)
    shutil.rmtree(cache / "ledger")
    (cache / "index.json").write_bytes(content)
    async with (
        mirror(tmp_path / "run", "--cache", str(cache), "--offline") as offline,
        Client.of(offline.url) as client,
    ):
        assert (await client.get(f"/v2/{REPOSITORY}/manifests/v1")).status == 404
        assert (await client.get(f"/v2/{REPOSITORY}/blobs/{one.blobs[0].digest}")).status == 404


async def test_index_grants_only_names_of_stored_manifests(tmp_path: Path, registry: Registry) -> None:
    """A layer, content that is not stored, and a time in the future."""
    cache = tmp_path / "cache"
    _, one, _ = await warmed(registry, cache)
    shutil.rmtree(cache / "ledger")
    absent, layer = image(1), one.blobs[-1]

    def entry(name: str, digest: str) -> dict[str, object]:
        annotations = {REF_NAME: name, "vnd.oci-mirror.checked": "1e14", "vnd.oci-mirror.pinned": "true"}
        return {"mediaType": one.media_type, "digest": digest, "size": 1, "annotations": annotations}

    entries = [
        entry("docker.io/x/layer:v1", layer.digest),
        entry(f"docker.io/x/layer@{layer.digest}", layer.digest),
        entry("docker.io/x/absent:v1", absent.digest),
        entry("docker.io/../x:v1", one.digest),
        entry("docker.io/x/good:v1", one.digest),
    ]
    (cache / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    async with (
        mirror(tmp_path / "run", "--cache", str(cache), "--offline") as offline,
        Client.of(offline.url) as client,
    ):
        for target in ("layer/manifests/v1", f"layer/blobs/{layer.digest}", f"absent/manifests/{absent.digest}"):
            assert (await client.get(f"/v2/x/{target}")).status == 404
        assert (await client.get("/v2/x/good/manifests/v1")).body == one.content
        assert await listed(cache) == {"docker.io/x/good:v1": True}
