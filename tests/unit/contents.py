"""A small set of contents: layers, images that reference them, an index that references images."""

from __future__ import annotations

import hashlib

from mirror.oci.digest import Digest
from mirror.storage.facts import ManifestFact


class Content:
    """Bytes, and the contents they reference if they are a manifest."""

    def __init__(self, name: str, body: bytes, references: tuple[Content, ...], algorithm: str) -> None:
        self.name = name
        self.body = body
        self.digest = Digest.of(body, algorithm)
        self.references = references

    @property
    def fact(self) -> ManifestFact | None:
        """The fact about a manifest; None for a layer."""
        digests = tuple(one.digest for one in self.references)
        return ManifestFact("application/vnd.oci.image.manifest.v1+json", digests) if digests else None

    def __repr__(self) -> str:
        return self.name


def _noise(name: str, size: int) -> bytes:
    """Return bytes derived from the name, the same each time."""
    return hashlib.shake_256(name.encode()).digest(size)


def layer(name: str, size: int, algorithm: str = "sha256") -> Content:
    return Content(name, _noise(name, size), (), algorithm)


def manifest(name: str, size: int, *references: Content) -> Content:
    return Content(name, _noise(name, size), references, "sha256")
