"""Image layouts of other tools that lack content they list: the import reports it and shows no part of the image."""

import json
from pathlib import Path

import pytest

from tests.airgap.command import mirror_command, succeeded
from tests.fake.content import OCI_INDEX, OCI_MANIFEST, Blob, Manifest, descriptor, image, index

NAME = "quay.io/team/app:v1"
CHILD = image(1000)


def layout(directory: Path, root: Manifest, media_type: str, *carried: Manifest) -> Path:
    """Write an OCI image layout of this image that contains only its own blobs and those of the *carried* manifests."""
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
async def test_import_refuses_layout_without_listed_manifests(
    tmp_path: Path, root: Manifest, media_type: str, complaint: str
) -> None:
    """Otherwise clients would receive a manifest whose blobs are not available."""
    path = layout(tmp_path / "layout", root, media_type)
    result = await mirror_command("import", path, "--name", NAME, "--cache", tmp_path / "cache")
    assert result.status == 1, result
    assert complaint in result.err, result
    assert json.loads((await succeeded("ls", "--json", "--cache", tmp_path / "cache")).out) == []


@pytest.mark.parametrize("command", ["serve", "warm"])
async def test_foreign_layout_is_refused_as_cache(tmp_path: Path, command: str) -> None:
    """Its images would be subject to eviction; the layout stays unchanged and the error suggests `mirror import`."""
    path = layout(tmp_path / "layout", CHILD, OCI_MANIFEST)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    images = ["quay.io/team/app:v1"] if command == "warm" else ["--listen", "127.0.0.1:0"]
    result = await mirror_command(command, *images, "--cache", path)
    assert result.status == 2, result
    assert "mirror import" in result.err, result
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


async def test_import_accepts_index_with_some_platforms(tmp_path: Path) -> None:
    """skopeo without --all writes one platform of an index."""
    path = layout(tmp_path / "layout", index(CHILD, image(2000)), OCI_INDEX, CHILD)
    await succeeded("import", path, "--name", NAME, "--cache", tmp_path / "cache")
    (listed,) = json.loads((await succeeded("ls", "--json", "--cache", tmp_path / "cache")).out)
    assert listed["name"] == NAME


async def test_missing_layer_of_archive_is_not_sought_in_earlier_bundle(tmp_path: Path) -> None:
    """The error suggests an earlier bundle only for a bundle that was exported with --since."""
    path = layout(tmp_path / "layout", CHILD, OCI_MANIFEST)
    (path / "blobs" / "sha256" / CHILD.blobs[-1].digest.partition(":")[2]).unlink()
    result = await mirror_command("import", path, "--name", NAME, "--cache", tmp_path / "cache")
    assert result.status == 1, result
    fix = "and the archive does not contain it: save the image again with all its layers"
    assert result.err.endswith(f"needs {CHILD.blobs[-1].digest}, which is not in the cache, {fix}\n")
