"""Registry content as values: generated blobs, manifests and whole images.

Bytes come from a seeded generator and differ with every call, so that no two tests share cached content by accident.
"""

import hashlib
import json
import random
from dataclasses import dataclass
from itertools import count

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"

_seeds = count(1)

Json = dict[str, object]


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    """Return the digest of these bytes."""
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def noise(size: int) -> bytes:
    """Return *size* bytes that no earlier call has returned."""
    return random.Random(next(_seeds)).randbytes(size)


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes and their digest."""

    content: bytes
    digest: str

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> "Blob":
        """Return the blob with these bytes."""
        return cls(content, digest_of(content, algorithm))

    @classmethod
    def noise(cls, size: int, algorithm: str = "sha256") -> "Blob":
        """Return a new blob of *size* bytes."""
        return cls.of(noise(size), algorithm)

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.content)

    @property
    def hex(self) -> str:
        """The digest without its algorithm."""
        return self.digest.partition(":")[2]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest of any media type, with its blobs and child manifests."""

    content: bytes
    media_type: str
    digest: str
    blobs: tuple[Blob, ...] = ()
    children: tuple["Manifest", ...] = ()

    @classmethod
    def of(
        cls,
        body: Json | bytes,
        media_type: str,
        *,
        blobs: tuple[Blob, ...] = (),
        children: tuple["Manifest", ...] = (),
        algorithm: str = "sha256",
    ) -> "Manifest":
        """Return the manifest with this JSON, or with exactly these bytes."""
        content = body if isinstance(body, bytes) else json.dumps(body, indent=3).encode()
        return cls(content, media_type, digest_of(content, algorithm), blobs, children)

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.content)


def image(
    *sizes: int, docker: bool = False, algorithm: str = "sha256", extra: Json | None = None, tail: int = 0
) -> Manifest:
    """Return an image with one new layer for each size (see `image_of`)."""
    layers = tuple(Blob.noise(size, algorithm) for size in sizes)
    return image_of(*layers, docker=docker, algorithm=algorithm, extra=extra, tail=tail)


def image_of(
    *layers: Blob,
    docker: bool = False,
    algorithm: str = "sha256",
    extra: Json | None = None,
    tail: int = 0,
    serial: int | None = None,
) -> Manifest:
    """Return an image of these layers; OCI, or Docker schema 2.

    *extra* is merged into the manifest's JSON (a subject, annotations); *tail* appends that many blanks to its bytes;
    a given *serial* makes the image identical in every run (None: a serial that no earlier image has).
    """
    kind, config_kind, layer_kind = (
        (DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER) if docker else (OCI_MANIFEST, OCI_CONFIG, OCI_LAYER)
    )
    number = next(_seeds) if serial is None else serial
    config = Blob.of(json.dumps({"architecture": "amd64", "os": "linux", "serial": number}).encode(), algorithm)
    body: Json = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": descriptor(config, config_kind),
        "layers": [descriptor(layer, layer_kind) for layer in layers],
        **(extra or {}),
    }
    content = json.dumps(body, indent=3).encode() + b" " * tail
    return Manifest.of(content, kind, blobs=(config, *layers), algorithm=algorithm)


def index(*images: Manifest, docker: bool = False) -> Manifest:
    """Return an index (Docker: manifest list) over images, one platform each."""
    kind = DOCKER_LIST if docker else OCI_INDEX
    platforms = ("amd64", "arm64", "s390x", "ppc64le", "riscv64")
    body: Json = {
        "schemaVersion": 2,
        "mediaType": kind,
        "manifests": [
            {**descriptor(child, child.media_type), "platform": {"os": "linux", "architecture": architecture}}
            for child, architecture in zip(images, platforms, strict=False)
        ],
    }
    return Manifest.of(body, kind, children=images)


def artifact(artifact_type: str, payload: Blob, subject: Manifest | None = None) -> Manifest:
    """Return an OCI artifact (a signature, an SBOM), attached to *subject* if one is given."""
    body: Json = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": descriptor(EMPTY, OCI_EMPTY),
        "layers": [descriptor(payload, "application/octet-stream")],
    }
    if subject is not None:
        body["subject"] = descriptor(subject, subject.media_type)
    return Manifest.of(body, OCI_MANIFEST, blobs=(EMPTY, payload))


def descriptor(content: Blob | Manifest, media_type: str) -> Json:
    """Return the descriptor of a blob or manifest."""
    return {"mediaType": media_type, "digest": content.digest, "size": content.size}


EMPTY = Blob.of(b"{}")
