"""Facts about content: small, mutable, durable, one row each."""

from __future__ import annotations

from dataclasses import dataclass

from mirror.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class TagFact:
    """The manifest that a tag named when the upstream last confirmed it (seconds since the epoch)."""

    digest: Digest
    checked: float


@dataclass(frozen=True, slots=True)
class ManifestFact:
    """The media type that a manifest came with, and the digests that it references."""

    media_type: str
    references: tuple[Digest, ...]
