"""Every failure that the mirror names.

Each class knows the OCI error code and the HTTP status under which a client sees it (distribution-spec 1.1,
"Error Codes"). A message says what happened, where, and what to do next; `detail` holds the facts, and is never
empty on the wire: dockerd retries an error without one for more than a minute.
"""

from __future__ import annotations

from typing import ClassVar


class MirrorError(Exception):
    """The root of the tree.

    Attributes:
        detail: facts for the `detail` member of the error's JSON.
        retry_after: seconds after which asking again makes sense; None where it is not known.
    """

    code: ClassVar[str] = "UNKNOWN"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, retry_after: int | None = None, **detail: str | int) -> None:
        super().__init__(message)
        self.detail = detail
        self.retry_after = retry_after


class ConfigurationInvalid(MirrorError):
    """The mirror can't start as it was told to: the message names the key, what was found, what is allowed."""


class ClientConfigurationInvalid(MirrorError):
    """A file that a client reads is broken, or can't be made to name the mirror; it stays as it is."""


# What a client asked wrongly.


class RequestMalformed(MirrorError):
    """Not a request of HTTP/1.1, or one that two readers may take for two."""

    code, status = "UNSUPPORTED", 400


class RequestTooLarge(RequestMalformed):
    """Its head is larger than the limits allow (RFC 6585, 5)."""

    status = 431


class NameInvalid(MirrorError):
    """Not the name of a repository."""

    code, status = "NAME_INVALID", 400


class NameUnknown(MirrorError):
    """A repository, or an upstream, that the mirror has no way to."""

    code, status = "NAME_UNKNOWN", 404


class DigestInvalid(MirrorError):
    """Not a digest of an algorithm that is known here."""

    code, status = "DIGEST_INVALID", 400


class TagInvalid(MirrorError):
    """Neither a tag nor a digest."""

    code, status = "MANIFEST_INVALID", 400


class PlatformInvalid(MirrorError):
    """Not a platform: an operating system and an architecture."""

    code, status = "UNSUPPORTED", 400


class ListInvalid(MirrorError):
    """A file that should name images, and names none that can be read."""

    code, status = "UNSUPPORTED", 400


class BundleInvalid(MirrorError):
    """What is to be brought in is broken, cut short, or nothing that images come in."""

    code, status = "UNSUPPORTED", 400


class RouteUnknown(MirrorError):
    """No such endpoint in the pull side of the registry API."""

    code, status = "UNSUPPORTED", 404


class MethodUnsupported(MirrorError):
    """The mirror is read-only."""

    code, status = "UNSUPPORTED", 405


class RangeUnsatisfiable(MirrorError):
    """A well-formed range that holds no byte of the blob (RFC 9110, 15.5.17)."""

    code, status = "SIZE_INVALID", 416

    def __init__(self, message: str, *, size: int) -> None:
        super().__init__(message, size=size)
        self.size = size


# Who may not come in, or not there.


class Unauthorized(MirrorError):
    """Nobody in particular asks, and somebody in particular has to: the answer carries a challenge.

    Attributes:
        challenge: the value of WWW-Authenticate (RFC 9110, 11.6.1), which is owed with every 401.
    """

    code, status = "UNAUTHORIZED", 401

    def __init__(self, message: str, *, challenge: str) -> None:
        super().__init__(message)
        self.challenge = challenge


class Denied(MirrorError):
    """It is known who asks, and that one may not pull this: no other login is asked for."""

    code, status = "DENIED", 403


class TooManyLogins(MirrorError):
    """A login can't be checked now: too many others are. 503: clients go elsewhere, or ask again."""

    code, status = "TOOMANYREQUESTS", 503


# What upstream answered, or failed to.


class ContentUnknown(MirrorError):
    """Upstream says that it does not have it, or offline mode keeps the mirror from asking."""

    status = 404


class ManifestUnknown(ContentUnknown):
    """No such tag or manifest in that repository."""

    code = "MANIFEST_UNKNOWN"


class ImageUnknown(ContentUnknown):
    """No image of that name in the cache."""

    code = "MANIFEST_UNKNOWN"


class ImageIncomplete(ContentUnknown):
    """Something that the image needs is not in the cache."""

    code = "MANIFEST_UNKNOWN"


class PlatformUnknown(ContentUnknown):
    """The image has nothing for that platform."""

    code = "MANIFEST_UNKNOWN"


class RepositoryUnknown(ContentUnknown):
    """Upstream has no such repository."""

    code = "NAME_UNKNOWN"


class BlobUnknown(ContentUnknown):
    """No such blob in that repository."""

    code = "BLOB_UNKNOWN"


class UpstreamError(MirrorError):
    """Upstream could not be used for this request; stored content may stand in for its answer."""


class UpstreamRefused(UpstreamError):
    """Upstream does not let the mirror pull this (401, 403, no usable credentials).

    The client sees 404 without a challenge: a challenge would draw its credentials to the mirror.
    """

    code, status = "NAME_UNKNOWN", 404


class UpstreamThrottled(UpstreamError):
    """Upstream's pull limit is reached (429). 503 here: clients hammer a 429, and fall back from a 503 at once."""

    code, status = "TOOMANYREQUESTS", 503


class UpstreamThrottledByPath(UpstreamThrottled):
    """The same for a client that named the upstream in the path, and so has nowhere to fall back to."""

    status = 429


class UpstreamUnavailable(UpstreamError):
    """Refused, reset, no such host, TLS failure, 5xx, or known to be down."""

    code, status = "UNAVAILABLE", 503


class RedirectTargetUnavailable(UpstreamUnavailable):
    """A host that upstream sends to failed: a storage, a token service. Upstream itself may be well."""


class UpstreamTimeout(UpstreamUnavailable):
    """Upstream took longer than the configured time for its first byte."""

    status = 504


class UpstreamDisconnected(UpstreamUnavailable):
    """A body ended before its end; what arrived is good, and the rest can be asked for."""


class IntegrityError(UpstreamError):
    """Content is not what its descriptor says, or an answer is not what the specification defines."""

    code, status = "UNKNOWN", 502


class DigestMismatch(IntegrityError):
    """Content does not have the digest by which it was requested."""


class SizeMismatch(IntegrityError):
    """Content does not have the size that its descriptor or its upstream announced."""


class UpstreamMalformed(IntegrityError):
    """The upstream's answer breaks the distribution specification or HTTP."""


# What went wrong here.


class StorageFailed(MirrorError):
    """The cache directory can't be read or written as it must be."""

    status = 503


class StorageBusy(StorageFailed):
    """Another mirror has the cache directory."""


class NoSpace(StorageFailed):
    """The blob can't be stored within max_size and min_free; it can still be passed through."""


class DiskFull(NoSpace):
    """The disk, or a quota on it, has no room, whatever max_size and min_free say."""
