"""Bundle reader: the images in an archive.

Supported are our bundles, OCI image layouts by other tools (skopeo, podman, buildah, crane, oras, `docker save` since
Docker 25), and archives by older versions of `docker save`. The latter contain no manifests, so this module creates
them from the image configs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import BinaryIO

from mirror.airgap.archive import Archive, content
from mirror.airgap.contents import LARGEST, CarriedImage, Contents
from mirror.errors import BundleInvalid, DigestInvalid
from mirror.oci.digest import Digest
from mirror.oci.manifest import DOCKER_MANIFEST, Manifest, parse_media_type
from mirror.oci.manifest import LARGEST as LARGEST_MANIFEST

_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar"


@dataclass(frozen=True, slots=True)
class Bundle:
    """Contents of an archive of images.

    Attributes:
        images: the images; the name is empty if the archive contains none.
        blobs: the size in bytes of each blob in the archive.
        builds_on: whether it omits blobs of an earlier bundle.
    """

    images: tuple[CarriedImage, ...]
    blobs: Mapping[Digest, int]
    _open: Callable[[Digest], BinaryIO] = field(repr=False)
    builds_on: bool = False

    def open(self, digest: Digest) -> BinaryIO:
        """Open a blob of the archive for reading. Its digest is not verified."""
        return self._open(digest)

    def manifest(self, digest: Digest, media_type: str | None) -> Manifest | None:
        """Return the manifest with *digest*, verified, or None if the archive does not contain it.

        Raises:
            BundleInvalid: if its content does not match *digest*, or is too large.
        """
        size = self.blobs.get(digest)
        if size is None:
            return None
        if size > LARGEST_MANIFEST:
            raise BundleInvalid(
                f"the manifest {digest} has {size} bytes, more than the limit of {LARGEST_MANIFEST}: save or export "
                f"the image again"
            )
        with self.open(digest) as file:
            body = file.read()
        if Digest.of(body, digest.algorithm) != digest:
            raise BundleInvalid(f"the manifest {digest} in the bundle is damaged: copy the bundle again")
        return Manifest.read(digest, body, media_type)


def read_bundle(archive: Archive) -> Bundle:
    """Return the images in *archive*.

    Raises:
        BundleInvalid: if it is not an archive of images, or a damaged one.
    """
    if "index.json" in archive and "oci-layout" in archive:
        return _layout(archive)
    if "manifest.json" in archive:
        return _docker_archive(archive)
    raise BundleInvalid(
        "the bundle is neither an OCI image layout (oci-layout, index.json) nor a docker archive (manifest.json): save "
        "or export the image again"
    )


def _layout(archive: Archive) -> Bundle:
    builds_on = False
    if "contents.json" in archive:
        contents = Contents.parse(content(archive, "contents.json", limit=LARGEST), where="contents.json")
        images, builds_on = contents.images, not all(blob.included for blob in contents.blobs)
    else:
        images = tuple(_named(_json(archive, "index.json")))
    paths: dict[Digest, str] = {}
    blobs: dict[Digest, int] = {}
    for name in archive.names("blobs/"):
        digest = _digest(name.removeprefix("blobs/").replace("/", ":", 1))
        if digest is not None:
            paths[digest], blobs[digest] = name, archive.size(name)
    return Bundle(images, blobs, lambda digest: archive.open(paths[digest]), builds_on)


def _named(index: object) -> Iterator[CarriedImage]:
    """Yield the images in an index. containerd's name annotation is preferred: the OCI one is often only the tag."""
    entries = index.get("manifests") if isinstance(index, dict) else None
    for entry in entries if isinstance(entries, list) else []:
        match entry:
            case {"digest": str(text), "mediaType": str(media_type), "size": int(size)}:
                digest, annotations = _digest(text), entry.get("annotations")
            case _:
                raise BundleInvalid("index.json in the bundle has an entry that is not a descriptor: create it again")
        if digest is None or parse_media_type(media_type) is None:
            raise BundleInvalid(
                f"index.json in the bundle has an invalid descriptor: {text[:80]!r} of type {media_type[:80]!r}: save "
                f"or export the image again"
            )
        known = annotations if isinstance(annotations, dict) else {}
        names = (known.get("io.containerd.image.name"), known.get("org.opencontainers.image.ref.name"))
        full = (name for name in names if isinstance(name, str) and (":" in name or "/" in name))  # else it is a tag
        yield CarriedImage(next(full, ""), digest, media_type, size)


def _docker_archive(archive: Archive) -> Bundle:
    """Read an archive by an old `docker save`. Create a manifest for each image, from its config and plain layers."""
    made: dict[Digest, bytes] = {}
    paths: dict[Digest, str] = {}
    images: list[CarriedImage] = []
    for config_name, layer_names, names in _docker_entries(archive):
        config = content(archive, config_name, limit=LARGEST_MANIFEST)
        layers = list(zip(_diff_ids(config, config_name), layer_names, strict=False))
        if len(layers) != len(layer_names):
            raise BundleInvalid(
                f"{config_name[:80]} and manifest.json in the bundle name different layers: save the image again"
            )
        body, digest = _made_manifest(archive, config, layers)
        made[digest], paths[Digest.of(config)] = body, config_name
        paths.update((diff_id, name) for diff_id, name in layers)
        images += [CarriedImage(name, digest, DOCKER_MANIFEST, len(body)) for name in names or [""]]
    blobs = {digest: archive.size(name) for digest, name in paths.items()} | {one: len(made[one]) for one in made}
    return Bundle(
        tuple(images), blobs, lambda digest: BytesIO(made[digest]) if digest in made else archive.open(paths[digest])
    )


def _docker_entries(archive: Archive) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield, for each image, the file of its config, the files of its layers from the bottom up, and its names."""
    entries = _json(archive, "manifest.json")
    for entry in entries if isinstance(entries, list) else []:
        match entry:
            case {"Config": str(config), "Layers": list(layers), "RepoTags": list(names) | (None as names)}:
                pass
            case _:
                raise BundleInvalid("manifest.json in the bundle is not in the format of docker save: save it again")
        files = [config, *map(str, layers)]
        missing = next((name for name in files if name not in archive), None)
        if missing is not None:
            raise BundleInvalid(
                f"the bundle has no {missing[:80]!r}, which its manifest.json names: save the image again"
            )
        yield config, files[1:], [str(name) for name in names or []]


def _diff_ids(config: bytes, name: str) -> list[Digest]:
    """Return the digests of the uncompressed layers from an image config (image-spec 1.1, "rootfs")."""
    try:
        return [Digest.parse(text) for text in json.loads(config)["rootfs"]["diff_ids"]]
    except (ValueError, TypeError, KeyError, DigestInvalid) as error:
        raise BundleInvalid(f"{name[:80]!r} in the bundle is not an image config: save the image again") from error


def _made_manifest(archive: Archive, config: bytes, layers: list[tuple[Digest, str]]) -> tuple[bytes, Digest]:
    def descriptor(media_type: str, size: int, digest: Digest) -> dict[str, object]:
        return {"mediaType": media_type, "size": size, "digest": str(digest)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": descriptor(_CONFIG, len(config), Digest.of(config)),
        "layers": [descriptor(_LAYER, archive.size(name), digest) for digest, name in layers],
    }
    body = json.dumps(manifest, separators=(",", ":")).encode()
    return body, Digest.of(body)


def _json(archive: Archive, name: str) -> object:
    try:
        found: object = json.loads(content(archive, name, limit=LARGEST))
    except (ValueError, RecursionError) as error:
        raise BundleInvalid(f"{name} in the bundle is not JSON ({error}): save or export the image again") from error
    return found


def _digest(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except DigestInvalid:
        return None
