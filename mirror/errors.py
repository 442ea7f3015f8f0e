"""Every exception of the mirror, with its OCI error code and HTTP status (distribution-spec 1.1, "Error Codes").

A message says what happened, where, and what to do next. `detail` holds the facts and is never empty on the wire:
dockerd retries an error without a detail for more than a minute.
"""

from __future__ import annotations

from typing import ClassVar


class MirrorError(Exception):
    """The base class of all exceptions of the mirror. 500 UNKNOWN unless a subclass says otherwise.

    Attributes:
        detail: facts for the `detail` member of the error's JSON.
        retry_after: seconds after which a retry makes sense; None if unknown.
    """

    code: ClassVar[str] = "UNKNOWN"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, retry_after: int | None = None, **detail: str | int) -> None:
        super().__init__(message)
        self.detail = detail
        self.retry_after = retry_after


class ConfigurationInvalid(MirrorError):
    """The settings or a file that they name are invalid. The message names the key, its value and the allowed values.

    Raised at the start and on a reload, never for a request.
    """


class ClientConfigurationInvalid(MirrorError):
    """A client's configuration file is broken, or can't be changed to use the mirror. The file stays unchanged."""


# Requests that are invalid.


class RequestMalformed(MirrorError):
    """The request is not HTTP/1.1, or two parsers could read it differently (request smuggling). 400 UNSUPPORTED."""

    code, status = "UNSUPPORTED", 400


class RequestTooLarge(RequestMalformed):
    """The head of the request exceeds the configured limits (RFC 6585, 5). 431 UNSUPPORTED."""

    status = 431


class NameInvalid(MirrorError):
    """A repository name breaks the grammar of names. 400 NAME_INVALID."""

    code, status = "NAME_INVALID", 400


class NameUnknown(MirrorError):
    """A request names an upstream that is not configured, or none while there is no default. 404 NAME_UNKNOWN."""

    code, status = "NAME_UNKNOWN", 404


class DigestInvalid(MirrorError):
    """A digest is malformed or of an unsupported algorithm. 400 DIGEST_INVALID."""

    code, status = "DIGEST_INVALID", 400


class TagInvalid(MirrorError):
    """A reference is neither a tag nor a digest. 400 MANIFEST_INVALID."""

    code, status = "MANIFEST_INVALID", 400


class PlatformInvalid(MirrorError):
    """A platform is not an operating system and an architecture. 400 UNSUPPORTED."""

    code, status = "UNSUPPORTED", 400


class ListInvalid(MirrorError):
    """A list of images (image list, sync file) can't be read, is invalid or names no image. 400 UNSUPPORTED."""

    code, status = "UNSUPPORTED", 400


class BundleInvalid(MirrorError):
    """A bundle or image archive is damaged, truncated, incomplete or of an unknown format. 400 UNSUPPORTED."""

    code, status = "UNSUPPORTED", 400


class RouteUnknown(MirrorError):
    """The request target is no endpoint of the pull side of the registry API. 404 UNSUPPORTED."""

    code, status = "UNSUPPORTED", 404


class MethodUnsupported(MirrorError):
    """The request would write, and the mirror is read-only. 405 UNSUPPORTED."""

    code, status = "UNSUPPORTED", 405


class RangeUnsatisfiable(MirrorError):
    """A well-formed Range header selects no byte of the blob (RFC 9110, 15.5.17). 416 SIZE_INVALID."""

    code, status = "SIZE_INVALID", 416

    def __init__(self, message: str, *, size: int) -> None:
        super().__init__(message, size=size)
        self.size = size


# Clients that are not admitted, or may not pull.


class Unauthorized(MirrorError):
    """The client sent no valid login, and the mirror requires one. 401 UNAUTHORIZED with a challenge.

    Attributes:
        challenge: the value of WWW-Authenticate, which every 401 must have (RFC 9110, 11.6.1).
    """

    code, status = "UNAUTHORIZED", 401

    def __init__(self, message: str, *, challenge: str) -> None:
        super().__init__(message)
        self.challenge = challenge


class Denied(MirrorError):
    """The client may not pull this, and another login would not help. 403 DENIED, without a challenge."""

    code, status = "DENIED", 403


class TooManyLogins(MirrorError):
    """A login can't be checked now: too many wait, or too many failed. 503: clients fall back or retry."""

    code, status = "TOOMANYREQUESTS", 503


# Content that is absent, and upstreams that fail.


class ContentUnknown(MirrorError):
    """The content does not exist: the upstream answered 404, or offline mode forbids the request. 404."""

    status = 404


class ManifestUnknown(ContentUnknown):
    """The repository has no such tag or manifest. 404 MANIFEST_UNKNOWN."""

    code = "MANIFEST_UNKNOWN"


class ImageUnknown(ContentUnknown):
    """The cache has no image of that name (admin commands). 404 MANIFEST_UNKNOWN."""

    code = "MANIFEST_UNKNOWN"


class ImageIncomplete(ContentUnknown):
    """The cache lacks content that the image references (export, import, pin). 404 MANIFEST_UNKNOWN."""

    code = "MANIFEST_UNKNOWN"


class PlatformUnknown(ContentUnknown):
    """The image has no manifest for a requested platform. 404 MANIFEST_UNKNOWN."""

    code = "MANIFEST_UNKNOWN"


class RepositoryUnknown(ContentUnknown):
    """The upstream has no such repository. 404 NAME_UNKNOWN."""

    code = "NAME_UNKNOWN"


class BlobUnknown(ContentUnknown):
    """The repository has no such blob. 404 BLOB_UNKNOWN."""

    code = "BLOB_UNKNOWN"


class UpstreamError(MirrorError):
    """The upstream could not answer the request. The mirror serves stale content instead, if it has any."""


class UpstreamRefused(UpstreamError):
    """The upstream does not let the mirror pull this: 401, 403, or no usable login. 404 NAME_UNKNOWN.

    No 401: a challenge would make the client send its upstream login to the mirror.
    """

    code, status = "NAME_UNKNOWN", 404


class UpstreamThrottled(UpstreamError):
    """The upstream's rate limit is reached (its 429). 503 TOOMANYREQUESTS.

    No 429: clients retry a 429 at once, but fall back to the upstream after a 503.
    """

    code, status = "TOOMANYREQUESTS", 503


class UpstreamThrottledByPath(UpstreamThrottled):
    """The same for a client that named the upstream in the path and so can't fall back. 429 TOOMANYREQUESTS."""

    status = 429


class UpstreamUnavailable(UpstreamError):
    """The upstream can't be reached or fails: refused, reset, no such host, TLS failure, 5xx, circuit breaker open.

    503 UNAVAILABLE.
    """

    code, status = "UNAVAILABLE", 503


class RedirectTargetUnavailable(UpstreamUnavailable):
    """A host that the upstream refers to failed: a storage, a token service. It does not count against the upstream."""


class UpstreamTimeout(UpstreamUnavailable):
    """The upstream's first byte did not come within `timeouts.first_byte`. 504 UNAVAILABLE."""

    status = 504


class UpstreamDisconnected(UpstreamUnavailable):
    """A response body ended early. The bytes received are valid; the download resumes after them."""


class IntegrityError(UpstreamError):
    """Content does not match its descriptor, or a response breaks the specification. 502 UNKNOWN."""

    code, status = "UNKNOWN", 502


class DigestMismatch(IntegrityError):
    """Content does not have the digest by which it was requested. 502."""


class SizeMismatch(IntegrityError):
    """Content does not have the size that its descriptor or its upstream announced. 502."""


class UpstreamMalformed(IntegrityError):
    """The upstream's response breaks the distribution specification or HTTP. 502."""


# Failures of this machine.


class StorageFailed(MirrorError):
    """The cache directory can't be read or written. 503."""

    status = 503


class StorageBusy(StorageFailed):
    """Another mirror process holds the lock of the cache directory."""


class NoSpace(StorageFailed):
    """The blob does not fit within `cache.max_size` and `cache.min_free`. The mirror serves it unstored."""


class DiskFull(NoSpace):
    """The disk or a quota on it is full, whatever `cache.max_size` and `cache.min_free` allow."""
