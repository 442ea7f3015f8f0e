"""Signatures, SBOMs and attestations are warmed, exported, imported and removed with their images."""

import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.airgap.command import succeeded
from tests.fake.content import OCI_INDEX, Blob, Manifest, artifact, descriptor, image, index
from tests.fake.registry import Registry
from tests.http.client import Client
from tests.real.mirror import mirror

REPOSITORY = "team/app"


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    """A fake Docker Hub, for the connected side."""
    async with Registry.running() as registry:
        yield registry


def hub(registry: Registry) -> tuple[str, ...]:
    return ("--upstream", f"docker.io={registry.url}")


def sig_tag(subject: Manifest, ending: str = ".sig") -> str:
    return f"sha256-{subject.digest.partition(':')[2]}{ending}"


async def assert_served(client: Client, manifest: Manifest, reference: str | None = None) -> None:
    """Assert that the mirror serves a manifest and all its blobs."""
    reply = await client.get(f"/v2/{REPOSITORY}/manifests/{reference or manifest.digest}")
    assert (reply.status, reply.body) == (200, manifest.content), reply
    for blob in manifest.blobs:
        assert (await client.get(f"/v2/{REPOSITORY}/blobs/{blob.digest}")).body == blob.content


async def referrers(client: Client, subject: Manifest) -> list[str]:
    reply = await client.get(f"/v2/{REPOSITORY}/referrers/{subject.digest}")
    return [one["digest"] for one in json.loads(reply.body)["manifests"]] if reply.status == 200 else []


async def ls(cache: Path) -> list[str]:
    result = await succeeded("ls", "--json", "--cache", cache)
    return [one["name"].removeprefix(f"docker.io/{REPOSITORY}:") for one in json.loads(result.out)]


async def test_referrers_and_signature_tags_are_exported_and_imported(tmp_path: Path, registry: Registry) -> None:
    """Cosign tags and referrers of an index, a platform manifest and an SBOM are carried, in two successive bundles."""
    child = image(1000)
    near, far = tmp_path / "near", tmp_path / "far"
    first, second = index(child, image(900)), index(child, image(800))
    sbom = artifact("x/sbom", Blob.noise(4000), child)
    notes = [artifact("x/sig", Blob.noise(50), sbom) for _ in range(4)]
    payload = Blob.noise(60_000)
    signatures = [artifact("x/cosign", payload), artifact("x/cosign", Blob.noise(70))]
    for attached in (sbom, *notes):
        registry.publish(REPOSITORY, attached)
    registry.publish(REPOSITORY, first, "v1")
    registry.publish(REPOSITORY, signatures[0], sig_tag(first))
    await succeeded("warm", f"{REPOSITORY}:v1", "--cache", near, *hub(registry))
    await succeeded("export", "-o", tmp_path / "w1.tar", f"{REPOSITORY}:v1", "--cache", near)
    registry.publish(REPOSITORY, second, "v1")
    registry.publish(REPOSITORY, signatures[1], sig_tag(second))
    await succeeded("warm", f"{REPOSITORY}:v1", "--cache", near, *hub(registry))
    await succeeded(
        *("export", "-o", tmp_path / "w2.tar", f"{REPOSITORY}:v1", "--since", tmp_path / "w1.tar", "--cache", near)
    )
    await succeeded("warm", f"{REPOSITORY}:v1", "--cache", tmp_path / "other", *hub(registry))
    since = ("--since", tmp_path / "w1.tar.json", "--cache", tmp_path / "other")
    await succeeded("export", "-o", tmp_path / "same.tar", f"{REPOSITORY}:v1", *since)
    assert (tmp_path / "same.tar").read_bytes() == (tmp_path / "w2.tar").read_bytes(), "out of whichever cache"
    with tarfile.open(tmp_path / "w2.tar") as tar:
        index_json = tar.extractfile("index.json")
        assert index_json is not None
        assert len(json.load(index_json)["manifests"]) == 1, "one image alone needs no name elsewhere"

    result = await succeeded("import", tmp_path / "w1.tar", "--cache", far)
    assert result.err.count(": imported\n") == 1, result
    async with mirror(tmp_path / "run", "--cache", str(far), "--offline") as offline, Client.of(offline.url) as client:
        await assert_served(client, signatures[0], sig_tag(first))
        await succeeded("import", tmp_path / "w2.tar", "--cache", far)
        await assert_served(client, signatures[1], sig_tag(second))
        await assert_served(client, sbom)
        await assert_served(client, notes[0])
        assert await referrers(client, child) == [sbom.digest]
        assert await referrers(client, sbom) == sorted(note.digest for note in notes)
        assert await ls(far) == ["v1", f"docker.io/{REPOSITORY}@{first.digest}"]
        await succeeded("gc", "--cache", far)
        assert await ls(far) == ["v1"]
        assert (await client.get(f"/v2/{REPOSITORY}/manifests/{sig_tag(first)}")).status == 404
        await assert_served(client, signatures[1], sig_tag(second))
        await succeeded("rm", f"{REPOSITORY}:v1", "--cache", far)
        assert json.loads((await succeeded("stats", "--json", "--cache", far)).out)["blobs"] == 0
        reply = await client.get(f"/v2/{REPOSITORY}/tags/list")
        assert reply.status == 404, reply


async def test_referrers_tag_is_carried_without_referrers_api(tmp_path: Path, registry: Registry) -> None:
    """The index under the tag sha256-… and its manifests are carried (distribution-spec, "Referrers Tag Schema")."""
    registry.has_referrers = False
    near, far = tmp_path / "near", tmp_path / "far"
    subject = image(500)
    sbom = artifact("x/sbom", Blob.noise(40), subject)
    listed = index(sbom)
    registry.publish(REPOSITORY, subject, "v1")
    registry.publish(REPOSITORY, listed, sig_tag(subject, ""))
    await succeeded("warm", f"{REPOSITORY}:v1", "--cache", near, *hub(registry))
    await succeeded("export", "-o", tmp_path / "b.tar", "--all", "--cache", near)
    await succeeded("import", tmp_path / "b.tar", "--cache", far)
    async with mirror(tmp_path / "run", "--cache", str(far), "--offline") as offline, Client.of(offline.url) as client:
        await assert_served(client, listed, sig_tag(subject, ""))
        await assert_served(client, sbom)
        assert await referrers(client, subject) == [sbom.digest]


async def test_buildkit_attestations_are_warmed_with_their_platform(tmp_path: Path, registry: Registry) -> None:
    """Attestations are index entries without a platform, and are warmed with the platform whose manifest they name."""
    ours, other, about_ours, about_other = image(100), image(200), image(300), image(400)
    entries = [
        descriptor(one, one.media_type) | {"platform": {"os": "linux", "architecture": architecture}}
        for one, architecture in ((ours, "amd64"), (other, "arm64"))
    ] + [
        descriptor(one, one.media_type)
        | {"platform": {"os": "unknown", "architecture": "unknown"}}
        | {"annotations": {"vnd.docker.reference.digest": subject.digest}}
        for one, subject in ((about_ours, ours), (about_other, other))
    ]
    body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    both = Manifest.of(body, OCI_INDEX, children=(ours, other, about_ours, about_other))
    registry.publish(REPOSITORY, both, "v1")
    cache = tmp_path / "cache"
    await succeeded("warm", f"{REPOSITORY}:v1", "--platform", "linux/amd64", "--cache", cache, *hub(registry))
    await registry.go_down()
    async with (
        mirror(tmp_path / "run", "--cache", str(cache), "--offline") as offline,
        Client.of(offline.url) as client,
    ):
        for one in (ours, about_ours):
            await assert_served(client, one)
        for one in (other, about_other):
            assert (await client.get(f"/v2/{REPOSITORY}/manifests/{one.digest}")).status == 404
