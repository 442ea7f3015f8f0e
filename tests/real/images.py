"""Images made from nothing but bytes: no engine, no Dockerfile, the same digests every time."""

import gzip
import hashlib
import io
import json
import platform
import random
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # as uname says it, and as images do
HERE = ARCHITECTURES[platform.machine()]

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Blob:
    """Content with the name that it gives itself."""

    content: bytes
    media_type: str
    algorithm: str = "sha256"

    @property
    def digest(self) -> str:
        return f"{self.algorithm}:{hashlib.new(self.algorithm, self.content).hexdigest()}"

    def descriptor(self) -> Json:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.content)}


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest and all that it names: blobs, or the images of an index."""

    manifest: Blob
    blobs: tuple[Blob, ...] = ()
    images: tuple["Image", ...] = ()

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def blob_digests(self) -> frozenset[str]:
        return frozenset(blob.digest for blob in self.blobs)


@dataclass(frozen=True, slots=True)
class Dialect:
    """The media types of one image format."""

    manifest: str
    index: str
    config: str
    layer: str


OCI = Dialect(OCI_MANIFEST, OCI_INDEX, OCI_CONFIG, OCI_LAYER)
DOCKER = Dialect(DOCKER_MANIFEST, DOCKER_LIST, DOCKER_CONFIG, DOCKER_LAYER)


def _json(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _tar(files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return packed.getvalue()


@cache
def _busybox_tar() -> bytes:
    """A root file system that runs: one static program under the names of a few."""
    busybox = shutil.which("busybox")
    assert busybox, "busybox is missing: apt-get install busybox-static"
    links = {f"bin/{name}": "busybox" for name in ("sh", "cat", "echo", "ls", "wc", "sleep")}
    return _tar({"bin/busybox": Path(busybox).read_bytes()}, links)


def assembled(
    tars: list[bytes], *, dialect: Dialect = OCI, architecture: str = HERE, algorithm: str = "sha256"
) -> Image:
    """An image with one layer for each tar; a tar of no bytes at all becomes a blob of no bytes at all."""
    layers = tuple(Blob(gzip.compress(tar, 1, mtime=0) if tar else b"", dialect.layer, algorithm) for tar in tars)
    config = Blob(
        _json(
            {
                "architecture": architecture,
                "os": "linux",
                "created": "2024-01-01T00:00:00Z",
                "config": {"Env": ["PATH=/bin"], "Cmd": ["cat", "/greeting"]},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]},
                "history": [{"created": "2024-01-01T00:00:00Z", "created_by": f"layer {n}"} for n in range(len(tars))],
            }
        ),
        dialect.config,
        algorithm,
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": dialect.manifest,
            "config": config.descriptor(),
            "layers": [layer.descriptor() for layer in layers],
        }
    )
    return Image(Blob(manifest, dialect.manifest), (config, *layers))


def runnable(greeting: str, *, dialect: Dialect = OCI, architecture: str = HERE, ballast: int = 0) -> Image:
    """An image that prints *greeting* when it is run; *ballast* is a further layer of so many random bytes."""
    tars = [_busybox_tar(), _tar({"greeting": f"{greeting}\n".encode()})]
    if ballast:
        tars.append(_tar({"ballast": random.Random(greeting).randbytes(ballast)}))
    return assembled(tars, dialect=dialect, architecture=architecture)


def multi_arch(greeting: str, *, dialect: Dialect = OCI) -> Image:
    """An index of two images: amd64 and arm64 say so behind the *greeting*."""
    images = {
        name: runnable(f"{greeting} {name}", dialect=dialect, architecture=name) for name in ARCHITECTURES.values()
    }
    entries = [
        {**image.manifest.descriptor(), "platform": {"architecture": name, "os": "linux"}}
        for name, image in images.items()
    ]
    index = _json({"schemaVersion": 2, "mediaType": dialect.index, "manifests": entries})
    return Image(Blob(index, dialect.index), images=tuple(images.values()))


def artifact(kind: str, content: bytes, subject: Image | None = None) -> Image:
    """An OCI artifact: no image, but any bytes under a type of their own, with the empty config (image-spec 1.1).

    Args:
        subject: the image that it is attached to.
    """
    empty = Blob(b"{}", OCI_EMPTY)
    layer = Blob(content, "application/octet-stream")
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": kind,
            "config": empty.descriptor(),
            "layers": [layer.descriptor()],
        }
        | ({} if subject is None else {"subject": subject.manifest.descriptor()})
    )
    return Image(Blob(manifest, OCI_MANIFEST), (empty, layer))


def listing(*referrers: Image) -> Image:
    """The index that stands for a list of referrers where a registry has none: under the tag sha256-…"""
    entries = [one.manifest.descriptor() for one in referrers]
    return Image(
        Blob(_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}), OCI_INDEX), images=referrers
    )


def layered(count: int) -> Image:
    """An image of *count* layers: the first one runs, each further one adds the file /layers/<number>."""
    tars = [_tar({f"layers/{number}": str(number).encode()}) for number in range(1, count)]
    return assembled([_busybox_tar(), *tars])


def with_empty_blob(greeting: str) -> Image:
    """An image that runs and whose last layer has no bytes, not even those of an empty archive."""
    return assembled([_busybox_tar(), _tar({"greeting": f"{greeting}\n".encode()}), b""], dialect=DOCKER)


def with_sha512(greeting: str) -> Image:
    """An image whose config and layers are named by sha512."""
    return assembled([_busybox_tar(), _tar({"greeting": f"{greeting}\n".encode()})], algorithm="sha512")
