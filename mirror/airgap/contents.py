"""Contents: which images a bundle brings, and which blobs they need.

Written in every bundle as `contents.json`, and beside it as `<bundle>.json` together with the sizes and digests of the
bundle's parts. The one beside it is all that a later export needs to leave out what the other side has already.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mirror.errors import BundleInvalid, MirrorError
from mirror.oci.digest import Digest
from mirror.oci.manifest import parse_media_type

_VERSION = 1
LARGEST = 64 * 2**20  # bytes of JSON; 100,000 blobs take 12


@dataclass(frozen=True, slots=True)
class CarriedImage:
    """An image as it is to be there: its full name, and the manifest or index that the name stands for.

    Attributes:
        attached: whether it is part of another one that it refers to: a signature, an SBOM, an attestation.
    """

    name: str
    digest: Digest
    media_type: str
    size: int
    attached: bool = False


@dataclass(frozen=True, slots=True)
class CarriedBlob:
    """A blob that an image needs. Not *included* are those that the other side has from an earlier bundle."""

    digest: Digest
    size: int
    included: bool = True


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a bundle."""

    name: str
    size: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class Contents:
    """All of it. Blobs stand in the order in which they lie in the bundle: what an image needs before its manifest.

    Attributes:
        parts: the bundle's files; none in the copy inside it, which is written before they are known.
    """

    images: tuple[CarriedImage, ...]
    blobs: tuple[CarriedBlob, ...]
    parts: tuple[Part, ...] = ()

    def text(self) -> bytes:
        """The JSON, the same for equal contents."""
        document = {
            "schemaVersion": _VERSION,
            "images": [
                {"name": one.name, "digest": str(one.digest), "mediaType": one.media_type, "size": one.size}
                | ({"attached": True} if one.attached else {})
                for one in self.images
            ],
            "blobs": [{"digest": str(one.digest), "size": one.size, "included": one.included} for one in self.blobs],
        }
        if self.parts:
            document["parts"] = [{"name": one.name, "size": one.size, "digest": str(one.digest)} for one in self.parts]
        return json.dumps(document, indent=1).encode() + b"\n"

    @classmethod
    def parse(cls, text: bytes, *, where: str) -> Contents:
        """The contents that *text* spells.

        Raises:
            BundleInvalid: with *where* it stands, and what is wrong with it.
        """
        try:
            document = json.loads(text)
            _check_version(document["schemaVersion"])
            images = tuple(map(_image, document["images"]))
            blobs = tuple(map(_blob, document["blobs"]))
            parts = tuple(map(_part, document.get("parts", ())))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, MirrorError) as error:
            raise BundleInvalid(f"{where} is no list of contents: {str(error)[:200]}") from error
        return cls(images, blobs, parts)

    def without(self, known: Iterable[Digest]) -> Contents:
        """The same, with blobs left out that are *known* on the other side."""
        there = frozenset(known)
        blobs = tuple(CarriedBlob(one.digest, one.size, one.digest not in there) for one in self.blobs)
        return Contents(self.images, blobs, self.parts)


def _check_version(version: object) -> None:
    if version != _VERSION:
        raise ValueError(f"it has version {version!r:.20}, and this mirror reads version {_VERSION}")


def _image(entry: Mapping[str, object]) -> CarriedImage:
    name, media_type = _text(entry["name"]), parse_media_type(_text(entry["mediaType"]))
    if media_type is None:
        raise ValueError(f"{name[:80]!r} has no media type")
    digest, size = Digest.parse(_text(entry["digest"])), _size(entry["size"])
    return CarriedImage(name, digest, media_type, size, attached=entry.get("attached") is True)


def _blob(entry: Mapping[str, object]) -> CarriedBlob:
    return CarriedBlob(Digest.parse(_text(entry["digest"])), _size(entry["size"]), entry["included"] is True)


def _part(entry: Mapping[str, object]) -> Part:
    return Part(_text(entry["name"]), _size(entry["size"]), Digest.parse(_text(entry["digest"])))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is no text")
    return value


def _size(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r:.80} is no size")
    return value
