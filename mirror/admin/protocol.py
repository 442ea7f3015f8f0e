"""Messages of the admin socket: one pydantic model for each request, response and progress line.

Bodies are JSON. Responses of long operations (`/hold`, `/warm`) are newline-delimited JSON, one event on each line.
Every request and every response carries `VERSION_HEADER`. Both sides refuse another version, because a command and a
mirror of different releases may not understand each other's fields.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, TypeAdapter

from mirror.admin import MAX_WARM_JOBS
from mirror.admin.message import Message
from mirror.errors import MirrorError, NameInvalid
from mirror.oci.digest import Digest
from mirror.oci.platforms import Platform

VERSION = "1"
VERSION_HEADER = "Mirror-Admin-Version"
_Value = TypeVar("_Value")


class AdminRequestInvalid(MirrorError):
    """A request of the admin socket is malformed; the message names each wrong field."""

    code, status = "UNSUPPORTED", 400


class AdminVersionMismatch(MirrorError):
    """The command and the mirror speak different versions of the admin protocol."""

    code, status = "UNSUPPORTED", 400

    def __init__(self, *, mirror: str | None, command: str | None) -> None:
        super().__init__(
            f"the mirror speaks version {mirror or '(none)'} of the admin protocol and this command speaks version "
            f"{command or '(none)'}: run the command of the same release as the mirror"
        )


def _parsed_by(parse: Callable[[str], _Value], kind: type[_Value]) -> PlainValidator:
    """Return a validator that accepts a *kind*, or text that *parse* converts to one."""

    def validate(value: object) -> _Value:
        if isinstance(value, kind):
            return value
        if not isinstance(value, str):
            raise ValueError(f"a {kind.__name__.lower()} is text")  # noqa: TRY004 - pydantic reports ValueError only
        try:
            return parse(value)
        except MirrorError as error:
            raise ValueError(str(error)) from error

    return PlainValidator(validate)


def _require_unicode(name: str) -> str:
    """Return *name*, unless it has a surrogate: within `[]` of a pattern, its escape would match other characters.

    Raises:
        NameInvalid: if it has one.
    """
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise NameInvalid(f"{name[:255]!a} is not the name of an image, as it is not UTF-8: mirror ls lists all names")
    return name


DigestText = Annotated[Digest, _parsed_by(Digest.parse, Digest), PlainSerializer(str)]
PlatformText = Annotated[Platform, _parsed_by(Platform.parse, Platform), PlainSerializer(str)]
NameText = Annotated[str, AfterValidator(_require_unicode)]
"""A name or a pattern that selects images of the cache."""
Size = Annotated[int, Field(ge=0)]
Timestamp = Annotated[float, Field(allow_inf_nan=False)]
"""Seconds since the epoch."""


class Failure(Message):
    """The body of every response with a status other than 200.

    Attributes:
        kind: the name of the error's class.
    """

    error: str
    kind: str


# The mirror


class MirrorStatus(Message):
    """Response of GET /.

    Attributes:
        serving: whether this is a mirror that serves clients; false for a command that opened the cache for itself.
    """

    serving: bool


class CacheStats(Message):
    """Response of GET /stats: how many images the cache holds, and how full it is."""

    images: Size
    pinned: Size
    incomplete: Size
    blobs: Size
    bytes: Size
    max_size: Size


# Images


class ImageSummary(Message):
    """One image of the cache; the fields of `mirror ls --json`.

    Attributes:
        platforms: those in the index, as it spells them; they may break the grammar of a request's platforms.
        size: bytes of the image that are stored.
        shared: bytes of those that other images also need.
        checked: when the upstream last confirmed the tag; None for an image that was pulled by digest.
        used: when some of its content was last pulled.
    """

    name: str
    upstream: str
    digest: DigestText
    media_type: str = Field(serialization_alias="mediaType")
    platforms: tuple[str, ...]
    size: Size
    shared: Size
    complete: bool
    pinned: bool
    checked: Timestamp | None
    used: Timestamp


class ImageList(Message):
    """Response of GET /images."""

    images: tuple[ImageSummary, ...]


class ImageSelection(Message):
    """Request of /graph, /pin, /unpin and /remove: which images of the cache.

    Attributes:
        images: names, or patterns of names.
        which: all images or all pinned images, in addition to those that *images* names.
    """

    images: tuple[NameText, ...] = ()
    which: Literal["all", "pinned"] | None = None


class SelectedImages(Message):
    """Response of /pin and /unpin: the names of the images that changed."""

    images: tuple[str, ...]


class RemovedImages(Message):
    """Response of /remove, with the number of bytes that were freed."""

    images: tuple[str, ...]
    freed: Size


class CollectRequest(Message):
    """Request of /collect."""


class CollectedGarbage(Message):
    """Response of /collect, with the number of bytes that were freed."""

    freed: Size


class GraphImage(Message):
    """The root manifest of an image, as a bundle lists it.

    Attributes:
        attached: whether it belongs to another image: a signature, an SBOM, an attestation.
    """

    name: str
    digest: DigestText
    media_type: str
    size: Size
    attached: bool = False


class GraphBlob(Message):
    """A blob that an image needs."""

    digest: DigestText
    size: Size


class IncompleteImage(Message):
    """An image that can't be exported.

    Attributes:
        missing: the blobs that are not in the cache; empty if not even the image's manifest is.
    """

    name: str
    missing: tuple[DigestText, ...]


class GraphResponse(Message):
    """Response of /graph: everything that images need.

    Attributes:
        blobs: the blobs, manifests included, in the order in which a bundle carries them.
        manifests: the digests of those blobs that are manifests.
    """

    images: tuple[GraphImage, ...]
    blobs: tuple[GraphBlob, ...]
    manifests: tuple[DigestText, ...]
    incomplete: tuple[IncompleteImage, ...]


# Imported and repaired content


class HoldRequest(Message):
    """Request of /hold: blobs to keep from eviction until the client closes the connection."""

    digests: tuple[DigestText, ...]


class BlobStored(Message):
    """Response of PUT /blobs/DIGEST.

    Attributes:
        stored: whether this request stored the blob; false if the cache had it already.
    """

    stored: bool


class ImportedManifest(Message):
    """A manifest of an image that is imported; its body was sent as a blob."""

    digest: DigestText
    media_type: str | None


class ImportRequest(Message):
    """Request of POST /image: make an image visible. All of its blobs must be in the cache.

    Attributes:
        digest: the manifest or index that the name stands for.
        manifests: its manifests, children first; the last one is the root.
    """

    name: str
    digest: DigestText
    manifests: tuple[ImportedManifest, ...] = Field(min_length=1)


class ImageImported(Message):
    """Response of POST /image.

    Attributes:
        previous: the manifest that the tag named before; None for a new tag, or a name by digest.
    """

    image: str
    previous: DigestText | None


class RepairRequest(Message):
    """Request of POST /repair: remove a damaged blob.

    Attributes:
        device, inode: the file that was found to be damaged; another one in its place is kept.
        fetch: fetch the blob again from its upstream.
    """

    digest: DigestText
    reason: str
    device: Size
    inode: Size
    fetch: bool


class RepairedBlob(Message):
    """Response of POST /repair.

    Attributes:
        images: the images that need the blob.
        fetched_from: the repository that it was fetched from; None if it was only removed.
        failures: why it could not be fetched, one line for each repository.
    """

    images: tuple[str, ...]
    fetched_from: str | None
    failures: tuple[str, ...]


class WarmRequest(Message):
    """Request of /warm: images to download into the cache.

    Attributes:
        images: names, or patterns of tags.
        platforms: the platforms of an index to download; None for all.
        jobs: how many images are downloaded at the same time.
    """

    images: tuple[str, ...] = Field(min_length=1)
    platforms: tuple[PlatformText, ...] | None = None
    pin: bool = False
    jobs: int = Field(default=2, ge=1, le=MAX_WARM_JOBS)


# Lines of the responses that are streams


class StreamFailed(Message):
    """The last line of a stream that an error ended."""

    event: Literal["failed"] = "failed"
    error: str
    kind: str


class BlobsHeld(Message):
    """The blobs are held. The mirror repeats this line, and so notices when the client is gone."""

    event: Literal["held"] = "held"


class WarmStarted(Message):
    """The first line of /warm: the request was accepted."""

    event: Literal["started"] = "started"


class ImageProgress(Message):
    """How far the download of one image is.

    Attributes:
        total: bytes of the image, as far as its manifests were read.
        present: bytes of those that are in the cache or being written.
    """

    event: Literal["progress"] = "progress"
    image: str
    total: Size
    present: Size


class ImageWarmed(Message):
    """The whole image is in the cache.

    Attributes:
        stale: why the upstream could not confirm the tag; None if it did.
    """

    event: Literal["warmed"] = "warmed"
    image: str
    total: Size
    stale: str | None = None


class ImageFailed(Message):
    """The image could not be downloaded, or was evicted again. It replaces an earlier ImageWarmed of that image."""

    event: Literal["image_failed"] = "image_failed"
    image: str
    error: str


WarmUpdate = WarmStarted | ImageProgress | ImageWarmed | ImageFailed
"""An update of a running warm request."""

HOLD_EVENTS: TypeAdapter[BlobsHeld | StreamFailed] = TypeAdapter(
    Annotated[BlobsHeld | StreamFailed, Field(discriminator="event")]
)
WARM_EVENTS: TypeAdapter[WarmUpdate | StreamFailed] = TypeAdapter(
    Annotated[WarmUpdate | StreamFailed, Field(discriminator="event")]
)
