"""manifest.json in the format of `docker save`, which lets `docker load` and `podman load` read a bundle.

It lists the config and layer files of each image, and supports neither several platforms nor layers elsewhere. An image
is therefore listed only if the bundle has exactly one platform of it, with all layers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator

from mirror.airgap.contents import CarriedImage, Contents
from mirror.errors import DigestInvalid
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest

_CONFIGS = {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
_MAX_DEPTH = 4
Read = Callable[[Digest], bytes]
"""Reads a whole small blob."""


def docker_manifest(contents: Contents, read: Read) -> bytes | None:
    """Return manifest.json for a bundle, or None if it would list no image."""
    here = {blob.digest for blob in contents.blobs if blob.included}
    entries = [
        entry
        for image in contents.images
        if not image.attached and "@" not in image.name
        if (entry := _entry(image, here, read)) is not None
    ]
    return json.dumps(entries, separators=(",", ":")).encode() if entries else None


def _entry(image: CarriedImage, here: Collection[Digest], read: Read) -> dict[str, object] | None:
    platforms = list(_platforms(image.digest, here, read))
    if len(platforms) != 1:
        return None
    files = _files(platforms[0].body)
    if not files or not set(files) <= set(here):
        return None
    config, *layers = [f"blobs/{one.algorithm}/{one.hex}" for one in files]
    return {"Config": config, "RepoTags": [image.name], "Layers": layers}


def _platforms(digest: Digest, here: Collection[Digest], read: Read, depth: int = _MAX_DEPTH) -> Iterator[Manifest]:
    """Yield the manifests of an image's platforms in the bundle, without attestations."""
    if digest not in here or not depth:
        return
    manifest = Manifest.read(digest, read(digest), None)
    if not manifest.is_index:
        yield manifest
        return
    for child in manifest.references:
        if child.about is None:
            yield from _platforms(child.digest, here, read, depth - 1)


def _files(body: bytes) -> list[Digest]:
    """Return the digests of config and layers, in order, with repetitions. Empty for a non-image or foreign layers."""
    try:
        match json.loads(body):
            case {"config": {"mediaType": str(kind), "digest": str(config)}, "layers": list(layers)}:
                if kind in _CONFIGS and not any("urls" in one for one in layers):
                    return [Digest.parse(config), *(Digest.parse(one["digest"]) for one in layers)]
    except (ValueError, TypeError, KeyError, RecursionError, DigestInvalid):
        pass  # exports carry any stored manifest, also an invalid one
    return []
