"""List of contents of a bundle: its images, and the blobs that they need.

Each bundle contains it as `contents.json`. A copy beside the bundle, `<bundle>.json`, also has the sizes and digests of
the bundle's parts. A later export needs only that copy to omit the blobs that the destination already has.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mirror.errors import BundleInvalid, MirrorError
from mirror.oci.digest import Digest
from mirror.oci.manifest import parse_media_type

_VERSION = 1
LARGEST = 64 * 2**20  # bytes of JSON; 100,000 blobs take 12 MiB


@dataclass(frozen=True, slots=True)
class CarriedImage:
    """An image in a bundle: its full name, and the descriptor of its manifest or index.

    Attributes:
        attached: whether it is a referrer of another image: a signature, an SBOM, an attestation.
    """

    name: str
    digest: Digest
    media_type: str
    size: int
    attached: bool = False


@dataclass(frozen=True, slots=True)
class CarriedBlob:
    """A blob that an image needs. It is not *included* if the destination has it from an earlier bundle."""

    digest: Digest
    size: int
    included: bool = True


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a bundle."""

    name: str
    size: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class Contents:
    """Images and blobs of a bundle. Blobs are in the order of the bundle: those of an image precede its manifest.

    Attributes:
        parts: the files of the bundle. Empty in the copy inside the bundle, which is written before they are known.
    """

    images: tuple[CarriedImage, ...]
    blobs: tuple[CarriedBlob, ...]
    parts: tuple[Part, ...] = ()

    def text(self) -> bytes:
        """Return the JSON, which is identical for equal contents."""
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
        """Parse the JSON in *text*.

        Args:
            where: the file that contains it, for the message.

        Raises:
            BundleInvalid: if it is invalid.
        """
        try:
            document = json.loads(text)
            _require_supported_version(document["schemaVersion"])
            images = tuple(map(_image, document["images"]))
            blobs = tuple(map(_blob, document["blobs"]))
            parts = tuple(map(_part, document.get("parts", ())))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, MirrorError) as error:
            raise BundleInvalid(f"{where} is not a list of contents: {str(error)[:200]}") from error
        return cls(images, blobs, parts)

    def without(self, known: Iterable[Digest]) -> Contents:
        """Return a copy in which the *known* blobs are not included."""
        omitted = frozenset(known)
        blobs = tuple(CarriedBlob(one.digest, one.size, one.digest not in omitted) for one in self.blobs)
        return Contents(self.images, blobs, self.parts)


def _require_supported_version(version: object) -> None:
    if version != _VERSION:
        raise ValueError(f"it has version {version!r:.20}, but this mirror supports version {_VERSION}")


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
        raise TypeError(f"{value!r:.80} is not a string")
    return value


def _size(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r:.80} is not a size")
    return value
