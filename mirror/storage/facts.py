"""Facts about content, and their rows in the fact database: a text key and a JSON object, which may gain members.

blob <digest>                  size, used (seconds since the epoch)
manifest <digest>              media_type, references
held <repository> <digest>     media_type, proof, proven_at
tag <repository>:<tag>         digest, checked
pin <repository>:<tag>, pin <repository>@<digest>
meta schema                    version
meta rebuilt <part>            what was rebuilt after the database was lost: "names", "manifests"
meta scrubbed                  digest: how far the scrub has come
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

from mirror.errors import MirrorError
from mirror.oci.digest import Digest
from mirror.oci.image_names import Image
from mirror.oci.names import Repository, Tag, parse_name, parse_reference

Proof = Literal["pulled", "confirmed", "imported", "restored"]
"""Why a repository has a right to a digest: its upstream sent it, its upstream confirmed it, a bundle contained it, or
index.json named it, or an image with it, after the fact database was lost."""

_PROOFS = ("pulled", "confirmed", "imported", "restored")
_LATEST = 1e15  # seconds; no clock writes a later time
_UPSTREAM = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class TagFact:
    """The manifest that a tag named when the upstream last confirmed it (seconds since the epoch)."""

    digest: Digest
    checked: float

    @classmethod
    def parse(cls, row: object) -> TagFact | None:
        """Return the fact in a row; None if the row has another shape."""
        match row:
            case {"digest": str(text), "checked": checked}:
                digest, moment = Digest.parse_or_none(text), moment_of(checked)
                return None if digest is None or moment is None else cls(digest, moment)
        return None

    def row(self) -> dict[str, object]:
        return {"digest": str(self.digest), "checked": self.checked}


@dataclass(frozen=True, slots=True)
class ManifestFact:
    """The media type that a manifest came with, and the digests that it references."""

    media_type: str
    references: tuple[Digest, ...]

    @classmethod
    def parse(cls, row: object) -> ManifestFact | None:
        """Return the fact in a row; None if the row has another shape."""
        match row:
            case {"media_type": str(media_type), "references": list(texts)}:
                references = tuple(digest for digest in map(Digest.parse_or_none, texts) if digest is not None)
                return cls(media_type, references) if len(references) == len(texts) else None
        return None

    def row(self) -> dict[str, object]:
        return {"media_type": self.media_type, "references": [str(one) for one in self.references]}


@dataclass(frozen=True, slots=True)
class HeldFact:
    """The proof of a repository's right to a digest, and when it was given (seconds since the epoch).

    Attributes:
        media_type: that of a manifest, empty if it is not known; None for any other blob.
    """

    media_type: str | None
    proof: Proof
    proven_at: float

    @property
    def is_manifest(self) -> bool:
        return self.media_type is not None

    @classmethod
    def parse(cls, row: object) -> HeldFact | None:
        """Return the fact in a row; None if the row has another shape."""
        match row:
            case {"media_type": str() | None as media_type, "proof": str(proof), "proven_at": proven_at}:
                moment = moment_of(proven_at)
                if proof in _PROOFS and moment is not None:
                    return cls(media_type, cast("Proof", proof), moment)
        return None

    def row(self) -> dict[str, object]:
        return {"media_type": self.media_type, "proof": self.proof, "proven_at": self.proven_at}


def parse_image(text: str) -> Image | None:
    """Return the image of a full name, as `str(Image)` writes it; None if *text* is not such a name."""
    name, at, digest = text.partition("@")
    if not at:
        name, _, digest = text.rpartition(":")
    repository = parse_repository(name)
    try:
        reference = parse_reference(digest)
    except MirrorError:
        return None
    if repository is None or isinstance(reference, Digest) is not bool(at):
        return None
    return Image(repository, reference)


def parse_repository(text: str) -> Repository | None:
    """Return the repository of a full name; None if *text* is not such a name."""
    upstream, _, name = text.partition("/")
    try:
        return Repository(upstream, parse_name(name)) if _UPSTREAM.fullmatch(upstream) else None
    except MirrorError:
        return None


def tag_key(repository: Repository, tag: Tag) -> str:
    return f"tag {repository}:{tag}"


def held_key(repository: Repository, digest: Digest) -> str:
    return f"held {repository} {digest}"


def moment_of(value: object) -> float | None:
    """Return a time in seconds since the epoch; None if *value* can't be one."""
    if (type(value) is float or type(value) is int) and 0 <= value <= _LATEST:
        return float(value)
    return None
