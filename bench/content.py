"""Benchmark content: the blobs and manifests to pull, as files that an upstream serves.

<root>/blobs/sha256:<hex>       every blob
<root>/manifests/sha256:<hex>   every manifest
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = "library/bench"
TAG = "latest"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
SMALL_LAYERS = 12
SMALL_LAYER_SIZE = 4096
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob of the upstream."""

    digest: str
    size: int

    @property
    def path(self) -> str:
        """The path of the blob in the registry API."""
        return f"/v2/{REPOSITORY}/blobs/{self.digest}"


@dataclass(frozen=True, slots=True)
class Content:
    """One image: a large layer, a layer that many clients pull at once, and a few small ones."""

    root: Path
    large: Blob
    crowded: Blob
    manifest: Blob

    @property
    def by_tag(self) -> str:
        """The path of the manifest, by tag."""
        return f"/v2/{REPOSITORY}/manifests/{TAG}"

    @property
    def by_digest(self) -> str:
        """The path of the manifest, by digest."""
        return f"/v2/{REPOSITORY}/manifests/{self.manifest.digest}"

    @property
    def blobs(self) -> Path:
        """The folder of blobs."""
        return self.root / "blobs"

    @property
    def manifests(self) -> Path:
        """The folder of manifests."""
        return self.root / "manifests"


def prepare(root: Path, *, large: int, crowded: int) -> Content:
    """Write the image to the directory *root*. Sizes are in bytes."""
    blobs, manifests = root / "blobs", root / "manifests"
    for folder in (blobs, manifests):
        folder.mkdir(parents=True)
    large_layer = _random_blob(blobs, large)
    crowded_layer = _random_blob(blobs, crowded)
    small = [_random_blob(blobs, SMALL_LAYER_SIZE) for _ in range(SMALL_LAYERS)]
    layers = [large_layer, crowded_layer, *small]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }
    config_blob = _write_blob(blobs, json.dumps(config).encode())
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": config_blob.digest, "size": config_blob.size},
        "layers": [{"mediaType": LAYER_TYPE, "digest": layer.digest, "size": layer.size} for layer in layers],
    }
    return Content(root, large_layer, crowded_layer, _write_blob(manifests, json.dumps(manifest).encode()))


def fill_layout(cache: Path, count: int) -> None:
    """Create an OCI image layout with *count* different small blobs in the directory *cache*."""
    blobs = cache / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (cache / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    seed = os.urandom(32)
    for number in range(count):
        content = seed + number.to_bytes(8, "big")
        descriptor = os.open(blobs / hashlib.sha256(content).hexdigest(), os.O_CREAT | os.O_WRONLY, 0o444)
        os.write(descriptor, content)
        os.close(descriptor)


def _random_blob(folder: Path, size: int) -> Blob:
    unnamed = folder / "unnamed"
    sha256 = hashlib.sha256()
    with unnamed.open("wb") as file:
        left = size
        while left:
            chunk = os.urandom(min(_CHUNK, left))
            sha256.update(chunk)
            file.write(chunk)
            left -= len(chunk)
    blob = Blob(f"sha256:{sha256.hexdigest()}", size)
    unnamed.rename(folder / blob.digest)
    return blob


def _write_blob(folder: Path, content: bytes) -> Blob:
    blob = Blob(f"sha256:{hashlib.sha256(content).hexdigest()}", len(content))
    (folder / blob.digest).write_bytes(content)
    return blob
