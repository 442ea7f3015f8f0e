"""Response headers and error bodies (distribution-spec 1.1; RFC 9110; RFC 9211)."""

from __future__ import annotations

import json
from collections.abc import Iterable

from mirror.errors import (
    MethodUnsupported,
    MirrorError,
    RangeUnsatisfiable,
    Unauthorized,
    UpstreamThrottled,
    UpstreamThrottledByPath,
)
from mirror.oci.digest import Digest
from mirror.oci.ranges import Span
from mirror.oci.routes import RequestedRepository
from mirror.pull.results import CacheOutcome, ManifestResult
from mirror.server.response import Headers

_CACHE_STATUS = {
    CacheOutcome.HIT: "mirror; hit",
    CacheOutcome.STORED: "mirror; fwd=uri-miss; stored",
    CacheOutcome.COLLAPSED: "mirror; fwd=uri-miss; collapsed",
    CacheOutcome.PASSED: "mirror; fwd=uri-miss",
    CacheOutcome.STALE: "mirror; fwd=stale; detail=unconfirmed",
}
_API = ("Docker-Distribution-Api-Version", "registry/2.0")
_DEFAULT_RETRY = 5  # seconds


def content_headers(
    requested: RequestedRepository, digest: Digest, media_type: str, size: int | None, outcome: CacheOutcome
) -> Headers:
    """Yield the headers of every manifest and blob, for GET and HEAD alike. *size* is None if it is unknown."""
    yield "Content-Type", media_type
    if size is not None:
        yield "Content-Length", str(size)
    yield "Docker-Content-Digest", digest.text
    yield "ETag", f'"{digest.text}"'
    yield _API
    yield cache_status(outcome)
    if requested.ns is not None:
        yield "OCI-Namespace", requested.ns


def manifest_headers(requested: RequestedRepository, pull: ManifestResult) -> Headers:
    head = pull.head
    yield from content_headers(requested, head.digest, head.media_type or "", head.size, pull.outcome)
    yield from staleness(pull.failure, pull.age)


def staleness(failure: MirrorError | None, age: int | None) -> Headers:
    """Yield Age and Warning of a stale answer (RFC 9111, 5.1 and 5.5); nothing if *failure* is None.

    Without an age the answer was made from stored content, and not sent by the upstream.
    """
    if failure is None:
        return
    if age is None:
        yield "Warning", f'299 - "{_quotable(str(failure))}; made from the stored content, which may be incomplete"'
    else:
        yield "Age", str(age)
        yield "Warning", f'299 - "{_quotable(str(failure))}; last confirmed {age} s ago"'


def cache_status(outcome: CacheOutcome) -> tuple[str, str]:
    return "Cache-Status", _CACHE_STATUS[outcome]


def blob_headers(requested: RequestedRepository, digest: Digest, size: int | None, outcome: CacheOutcome) -> Headers:
    yield from content_headers(requested, digest, "application/octet-stream", size, outcome)
    yield "Accept-Ranges", "bytes"


def part_headers(
    requested: RequestedRepository, digest: Digest, span: Span, size: int, outcome: CacheOutcome
) -> Headers:
    yield from blob_headers(requested, digest, len(span), outcome)
    yield "Content-Range", span.content_range(size)


def multipart_headers(
    requested: RequestedRepository, digest: Digest, boundary: str, length: int, outcome: CacheOutcome
) -> Headers:
    for name, value in blob_headers(requested, digest, length, outcome):
        yield name, f"multipart/byteranges; boundary={boundary}" if name == "Content-Type" else value


def part_opening(boundary: str, span: Span, size: int, *, first: bool) -> bytes:
    """Return the framing before one part of a multipart response (RFC 9110, 14.6)."""
    opening = (
        f"--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: {span.content_range(size)}\r\n\r\n"
    )
    return (opening if first else "\r\n" + opening).encode()


def for_client(failure: MirrorError, *, by_path: bool) -> MirrorError:
    """Return *failure* as this client should see it.

    A client that named the upstream in the path has no other registry to fall back to: it must wait, so
    its response is 429.
    """
    if by_path and isinstance(failure, UpstreamThrottled):
        return UpstreamThrottledByPath(str(failure), retry_after=failure.retry_after, **failure.detail)
    return failure


def error_answer(failure: MirrorError) -> tuple[int, Headers, bytes]:
    """Return status, headers and the OCI error JSON. `detail` is never empty: dockerd retries an error without one."""
    detail = {"error": type(failure).__name__, **failure.detail}
    body = json.dumps({"errors": [{"code": failure.code, "message": str(failure), "detail": detail}]}).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), _API]
    if isinstance(failure, RangeUnsatisfiable):
        headers.append(("Content-Range", f"bytes */{failure.size}"))
    if isinstance(failure, MethodUnsupported):
        headers.append(("Allow", "GET, HEAD"))
    if isinstance(failure, Unauthorized):
        headers.append(("WWW-Authenticate", failure.challenge))
    if failure.status in {429, 503, 504}:
        headers.append(("Retry-After", str(_DEFAULT_RETRY if failure.retry_after is None else failure.retry_after)))
    return failure.status, headers, body


def api_answer() -> tuple[Headers, bytes]:
    """Return the answer to `/v2/`: this is a registry, and the client may use it."""
    return [("Content-Type", "application/json"), ("Content-Length", "2"), _API], b"{}"


def is_known(if_none_match: Iterable[str], digest: Digest) -> bool:
    """Return whether the client has this content already (RFC 9110, 13.1.2; weak comparison)."""
    tags = (tag.strip().removeprefix("W/") for line in if_none_match for tag in line.split(","))
    return any(tag in {"*", f'"{digest}"'} for tag in tags)


def _quotable(text: str) -> str:
    """Return *text* for use in a quoted string of a header."""
    plain = "".join(character if character.isascii() and character.isprintable() else "?" for character in text)
    return plain.replace("\\", "/").replace('"', "'")[:512]
