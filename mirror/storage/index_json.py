"""Format of index.json, the image index of a cache directory (OCI image-spec 1.1): images by name, pins and imports.

Other programs find the images by `org.opencontainers.image.ref.name`. If the fact database is lost, the mirror restores
names, pins and imports from it. Pure: parses and renders only. Every entry may be hostile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import orjson

from mirror.oci.digest import Digest
from mirror.oci.image_names import Image
from mirror.oci.manifest import OCI_INDEX, parse_media_type
from mirror.oci.names import Tag
from mirror.storage.facts import moment_of, parse_image

_NAME = "org.opencontainers.image.ref.name"
_CHECKED = "vnd.oci-mirror.checked"  # seconds since the epoch
_PINNED = "vnd.oci-mirror.pinned"
_IMPORTED = "vnd.oci-mirror.imported"


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One name, and the manifest that it names.

    Attributes:
        checked: when the upstream last confirmed the tag (seconds since the epoch); None for a digest.
        is_imported: whether a bundle brought the manifest.
    """

    image: Image
    digest: Digest
    media_type: str
    size: int
    checked: float | None
    is_pinned: bool
    is_imported: bool


def render(entries: Iterable[IndexEntry]) -> bytes:
    """Return the text of index.json."""
    manifests = [_descriptor(entry) for entry in sorted(entries, key=lambda entry: str(entry.image))]
    return orjson.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}) + b"\n"


def _descriptor(entry: IndexEntry) -> dict[str, object]:
    annotations = {_NAME: str(entry.image)}
    if entry.checked is not None:
        annotations[_CHECKED] = f"{entry.checked:.3f}"
    if entry.is_pinned:
        annotations[_PINNED] = "true"
    if entry.is_imported:
        annotations[_IMPORTED] = "true"
    return {
        "mediaType": entry.media_type,
        "digest": str(entry.digest),
        "size": entry.size,
        "annotations": annotations,
    }


def parse(content: bytes) -> list[IndexEntry]:
    """Return the entries of index.json that the mirror wrote, or could have written. Ignore all others."""
    try:
        document = orjson.loads(content)
    except ValueError:
        return []
    found = document.get("manifests") if isinstance(document, dict) else None
    return list(_entries(found if isinstance(found, list) else []))


def _entries(descriptors: Iterable[object]) -> Iterator[IndexEntry]:
    for descriptor in descriptors:
        match descriptor:
            case {
                "mediaType": str(media_type),
                "digest": str(text),
                "size": int(size),
                "annotations": {"org.opencontainers.image.ref.name": str(name), **others},
            }:
                image, digest = parse_image(name), Digest.parse_or_none(text)
                if image is None or digest is None or parse_media_type(media_type) != media_type or size < 0:
                    continue
                if not isinstance(image.reference, Tag) and image.reference != digest:
                    continue
                checked = _moment(others.get(_CHECKED)) if isinstance(image.reference, Tag) else None
                pinned, imported = (others.get(key) == "true" for key in (_PINNED, _IMPORTED))
                yield IndexEntry(image, digest, media_type, size, checked, pinned, imported)


def _moment(text: object) -> float | None:
    try:
        return moment_of(float(text)) if isinstance(text, str) else None
    except ValueError:
        return None
