"""Write and read bundles of small images."""

import io
import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from mirror.airgap.bundle_reader import Bundle
from mirror.airgap.bundle_writer import write_bundle
from mirror.airgap.contents import CarriedBlob, CarriedImage, Contents
from mirror.oci.digest import Digest
from mirror.oci.manifest import OCI_MANIFEST

NAME = "docker.io/library/alpine:3.20"


def an_image(*layers: bytes, name: str = NAME) -> tuple[Contents, dict[Digest, bytes]]:
    """Return the contents and the blobs of an image with these layers."""
    config = b'{"os":"linux"}'
    blobs = {Digest.of(layer): layer for layer in (*layers, config)}

    def descriptor(content: bytes) -> dict[str, object]:
        return {"digest": str(Digest.of(content)), "size": len(content), "mediaType": "a/b"}

    manifest = json.dumps(
        {"schemaVersion": 2, "config": descriptor(config), "layers": [descriptor(layer) for layer in layers]}
    ).encode()
    blobs[Digest.of(manifest)] = manifest
    image = CarriedImage(name, Digest.of(manifest), OCI_MANIFEST, len(manifest))
    return Contents((image,), tuple(CarriedBlob(digest, len(body)) for digest, body in blobs.items())), blobs


def write(target: Path, contents: Contents, blobs: Mapping[Digest, bytes], limit: int | None = None) -> Contents:
    return write_bundle(target, contents, lambda digest: closing(io.BytesIO(blobs[digest])), limit=limit)


def all_of(bundle: Bundle) -> dict[Digest, bytes]:
    found = {}
    for digest in bundle.blobs:
        with bundle.open(digest) as file:
            found[digest] = file.read()
    return found
