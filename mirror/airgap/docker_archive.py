"""What `docker load` and `podman load` read in an archive of several images: manifest.json, in the form of docker save.

It says of each image which files are its config and its layers, and knows neither platforms nor what lies elsewhere: an
image is in it if one platform of it is carried, with all its layers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator

from mirror.airgap.contents import CarriedImage, Contents
from mirror.errors import DigestInvalid
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest

_CONFIGS = {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
_MOST_NESTED = 4
Read = Callable[[Digest], bytes]
"""All of a small blob."""


def docker_manifest(contents: Contents, read: Read) -> bytes | None:
    """manifest.json for a bundle; None where it would hold no image."""
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


def _platforms(digest: Digest, here: Collection[Digest], read: Read, deep: int = _MOST_NESTED) -> Iterator[Manifest]:
    """The manifests that are carried of an image; not those that only attest something."""
    if digest not in here or not deep:
        return
    manifest = Manifest.read(digest, read(digest), None)
    if not manifest.is_index:
        yield manifest
        return
    for child in manifest.references:
        if child.about is None:
            yield from _platforms(child.digest, here, read, deep - 1)


def _files(body: bytes) -> list[Digest]:
    """Config and layers, each as often as the image has it; nothing of what is no image, or lies elsewhere."""
    try:
        match json.loads(body):
            case {"config": {"mediaType": str(kind), "digest": str(config)}, "layers": list(layers)}:
                if kind in _CONFIGS and not any("urls" in one for one in layers):
                    return [Digest.parse(config), *(Digest.parse(one["digest"]) for one in layers)]
    except (ValueError, TypeError, KeyError, RecursionError, DigestInvalid):
        pass  # somebody stored it, and an export carries it, whatever it is
    return []
