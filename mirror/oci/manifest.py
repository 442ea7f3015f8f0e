"""Manifests, indexes and their descriptors (OCI image-spec 1.1; Docker image manifest V2, schema 2)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from mirror.oci.digest import Digest
from mirror.oci.platforms import Platform

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST, "*/*"))
"""The Accept header of every manifest request. With fewer types, Quay converts (other digest) and GHCR answers 404."""

LARGEST = 4 * 2**20
"""Bytes; containerd refuses larger manifests (4 MiB), and distribution refuses to store them."""

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A descriptor: the digest of content, and its size in bytes (None if missing or invalid).

    Attributes:
        media_type, platform: None if missing or invalid.
        about: the manifest of the same index that this attestation describes, as BuildKit writes it.
    """

    digest: Digest
    size: int | None
    media_type: str | None = None
    platform: Platform | None = None
    about: Digest | None = None


@dataclass(frozen=True, slots=True)
class ManifestHead:
    """The headers of a manifest response. Media type and size are None if the upstream left them out."""

    digest: Digest
    media_type: str | None
    size: int | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or index: the exact bytes from the upstream, with the upstream's media type."""

    head: ManifestHead
    body: bytes
    is_index: bool
    references: tuple[Descriptor, ...]
    subject: Digest | None = None  # the manifest of which this one is a referrer (image-spec 1.1, "subject")

    @property
    def digest(self) -> Digest:
        return self.head.digest

    @classmethod
    def read(cls, digest: Digest, body: bytes, media_type: str | None) -> Manifest:
        """Parse *body*, whose digest is already verified.

        Never raises: invalid JSON and invalid descriptors count as no references.

        Args:
            media_type: the upstream's Content-Type; if it is None or malformed, the manifest's `mediaType` counts.
        """
        content = json_object(body)
        children = _descriptors(content.get("manifests"))
        own = content.get("mediaType")
        subject = _descriptors([content.get("subject")])
        chosen = parse_media_type(media_type) or parse_media_type(own if isinstance(own, str) else None)
        return cls(
            head=ManifestHead(digest, chosen or (OCI_INDEX if children else OCI_MANIFEST), len(body)),
            body=body,
            is_index=bool(children),
            references=children or _descriptors([content.get("config"), *_entries(content.get("layers"))]),
            subject=subject[0].digest if subject else None,
        )


def is_manifest(body: bytes) -> bool:
    """Return whether *body* looks like a manifest, and not like the page of a captive portal or proxy."""
    content = json_object(body)
    return "schemaVersion" in content or isinstance(content.get("mediaType"), str)


def parse_media_type(header: str | None) -> str | None:
    """Return the media type in a Content-Type header, without parameters; None if missing or malformed."""
    text = (header or "").partition(";")[0].strip()
    return text if _MEDIA_TYPE.fullmatch(text) else None


def json_object(body: bytes) -> dict[str, object]:
    """Return the JSON object in *body*; an empty one if it is anything else."""
    try:
        content: object = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _entries(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _descriptors(value: object) -> tuple[Descriptor, ...]:
    found: dict[Digest, Descriptor] = {}
    for entry in _entries(value):
        if not isinstance(entry, dict) or entry.get("urls"):
            continue  # foreign layers (urls) are not served by the registry
        digest, size = Digest.parse_or_none(entry.get("digest")), entry.get("size")
        if digest is None:
            continue
        known_size = size if type(size) is int and size >= 0 else None
        media_type = entry.get("mediaType")
        own = parse_media_type(media_type) if isinstance(media_type, str) else None
        found.setdefault(digest, Descriptor(digest, known_size, own, _platform(entry.get("platform")), _about(entry)))
    return tuple(found.values())


def _about(entry: dict[str, object]) -> Digest | None:
    match entry.get("annotations"):
        case {"vnd.docker.reference.digest": str(text)}:
            return Digest.parse_or_none(text)
    return None


def _platform(entry: object) -> Platform | None:
    match entry:
        case {"os": str(os), "architecture": str(architecture), "variant": str(variant)}:
            return Platform.of(os, architecture, variant)
        case {"os": str(os), "architecture": str(architecture)}:
            return Platform.of(os, architecture, None)
    return None
