"""Layouts of others that promise what they do not hold: told, and nothing of them is visible."""

import json
from pathlib import Path

import pytest

from tests.airgap.command import mirror_command, succeeded
from tests.fake.content import OCI_INDEX, OCI_MANIFEST, Blob, Manifest, descriptor, image, index

NAME = "quay.io/team/app:v1"
CHILD = image(1000)


def layout(directory: Path, root: Manifest, media_type: str, *carried: Manifest) -> Path:
    """An OCI image layout with this image, of which no more is there than what is *carried*."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for manifest in (root, *carried):
        contents: tuple[Manifest | Blob, ...] = (manifest, *manifest.blobs)
        for content in contents:
            (blobs / content.digest.partition(":")[2]).write_bytes(content.content)
    entry = {**descriptor(root, media_type), "annotations": {"org.opencontainers.image.ref.name": "v1"}}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return directory


@pytest.mark.parametrize(
    ("root", "media_type", "complaint"),
    [
        (index(CHILD), OCI_INDEX, "none of the manifests"),
        (Manifest.of(b'"a page, and no manifest"', OCI_MANIFEST), OCI_MANIFEST, "no manifest"),
    ],
    ids=["an index without its manifests", "something else for a manifest"],
)
async def test_a_promise_that_is_not_kept(tmp_path: Path, root: Manifest, media_type: str, complaint: str) -> None:
    """Or clients would get a manifest whose blobs nobody has."""
    path = layout(tmp_path / "layout", root, media_type)
    said = await mirror_command("import", path, "--name", NAME, "--cache", tmp_path / "cache")
    assert said.status == 1, said
    assert complaint in said.err, said
    assert json.loads((await succeeded("ls", "--json", "--cache", tmp_path / "cache")).out) == []


@pytest.mark.parametrize("command", ["serve", "warm"])
async def test_somebody_elses_layout_is_no_cache(tmp_path: Path, command: str) -> None:
    """What it lists would be evicted one day; it is left as it is."""
    path = layout(tmp_path / "layout", CHILD, OCI_MANIFEST)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    images = ["quay.io/team/app:v1"] if command == "warm" else ["--listen", "127.0.0.1:0"]
    said = await mirror_command(command, *images, "--cache", path)
    assert said.status == 2, said
    assert "mirror import" in said.err, said
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


async def test_of_an_index_some_platforms_are_enough(tmp_path: Path) -> None:
    """As skopeo writes them without --all."""
    path = layout(tmp_path / "layout", index(CHILD, image(2000)), OCI_INDEX, CHILD)
    await succeeded("import", path, "--name", NAME, "--cache", tmp_path / "cache")
    (listed,) = json.loads((await succeeded("ls", "--json", "--cache", tmp_path / "cache")).out)
    assert listed["name"] == NAME


async def test_a_layer_that_an_archive_lacks_is_in_no_earlier_bundle(tmp_path: Path) -> None:
    """Only what was made with --since builds on one."""
    path = layout(tmp_path / "layout", CHILD, OCI_MANIFEST)
    (path / "blobs" / "sha256" / CHILD.blobs[-1].digest.partition(":")[2]).unlink()
    said = await mirror_command("import", path, "--name", NAME, "--cache", tmp_path / "cache")
    assert said.status == 1, said
    assert said.err.endswith(
        f"needs {CHILD.blobs[-1].digest}, which is not in the cache: the archive lacks it too\n"
    )
