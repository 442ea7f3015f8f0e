"""Responses that fit in memory: headers, error bodies, heads (distribution-spec 1.1; RFC 9110; RFC 9211).

aiohttp parses the requests and keeps the connections; the mirror writes the responses. The head of a hit is always the
same bytes apart from the Date, so it is rendered once and cached. `response_writer` streams blobs.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import web

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
from mirror.server.connections import Connection

_POLL_INTERVAL = 0.02  # seconds between two checks of the transport's write buffer
_REASONS = {status.value: status.phrase for status in HTTPStatus}
_CACHE_STATUS = {
    CacheOutcome.HIT: "mirror; hit",
    CacheOutcome.STORED: "mirror; fwd=uri-miss; stored",
    CacheOutcome.COLLAPSED: "mirror; fwd=uri-miss; collapsed",
    CacheOutcome.PASSED: "mirror; fwd=uri-miss",
    CacheOutcome.STALE: "mirror; fwd=stale; detail=unconfirmed",
}
_API = ("Docker-Distribution-Api-Version", "registry/2.0")
_DEFAULT_RETRY = 5  # seconds
Headers = Iterable[tuple[str, str]]


class ClientGone(Exception):
    """The client has disconnected, or no longer reads its response."""


class WrittenResponse(web.StreamResponse):
    """A response that is already on the connection: tells aiohttp only whether another request may follow."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._allows_next_request = keep_alive

    @property
    def keep_alive(self) -> bool:
        return self._allows_next_request

    async def prepare(self, request: web.BaseRequest) -> None:  # noqa: ARG002
        return None

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002
        return None


_KEEP_ALIVE, _CLOSE = WrittenResponse(keep_alive=True), WrittenResponse(keep_alive=False)


def written_response(*, keep_alive: bool) -> WrittenResponse:
    """Return one of two shared instances: they hold no state of a request."""
    return _KEEP_ALIVE if keep_alive else _CLOSE


class _DateHeader:
    """The Date header (RFC 9110, 6.6.1), rendered once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._rendered = b""

    def line(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second, self._rendered = second, f"Date: {formatdate(second, usegmt=True)}\r\n".encode()
        return self._rendered


_date = _DateHeader()


def render(status: int, headers: Headers) -> bytes:
    """Return the status line and *headers*; `head_end` adds Date, Connection and the empty line.

    Raises:
        ValueError: if a header value has characters that are not printable, such as a line break.
    """
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}"]
    for name, value in headers:
        if not value.isprintable():
            raise ValueError(f"{name} can't be sent: {value!r}")
        lines.append(f"{name}: {value}")
    return "\r\n".join((*lines, "")).encode("utf-8")


def not_modified(head: bytes) -> bytes:
    """Return the head of the 304 response for content whose 200 response has this *head* (RFC 9110, 15.4.5)."""
    return b"HTTP/1.1 304 Not Modified" + head[head.index(b"\r\n") :]


def head_end(request: web.BaseRequest) -> bytes:
    """Return the end of every head: Date, Connection where it is needed, and the empty line."""
    if not request.keep_alive:
        return _date.line() + b"Connection: close\r\n\r\n"
    if request.version < (1, 1):
        return _date.line() + b"Connection: keep-alive\r\n\r\n"
    return _date.line() + b"\r\n"


def answer(request: web.BaseRequest, head: bytes, body: bytes = b"") -> WrittenResponse:
    """Write a whole response; for HEAD without *body*.

    Raises:
        ClientGone: if the connection is closed.
    """
    transport = request.transport
    if transport is None:
        raise ClientGone
    transport.write(b"".join((head, head_end(request), b"" if request.method == "HEAD" else body)))
    return written_response(keep_alive=request.keep_alive)


async def drained(request: web.BaseRequest, *, limit: int) -> None:
    """Wait until at most *limit* bytes of earlier responses on the connection of *request* are unsent.

    Only a client that pipelines requests without reading the responses has to wait. The limit bounds the memory that
    its responses occupy in this process.

    Raises:
        ClientGone: if the client acknowledges no bytes for `limits.unread` seconds.
    """
    since, previous = 0.0, -1
    while (transport := request.transport) is not None and transport.get_write_buffer_size() > limit:
        connection = request.protocol
        assert isinstance(connection, Connection)  # noqa: S101
        now, acknowledged = asyncio.get_running_loop().time(), connection.acknowledged_bytes()
        if acknowledged != previous:
            since, previous = now, acknowledged
        elif now - since > connection.limits.unread:
            transport.abort()
            raise ClientGone
        await asyncio.sleep(_POLL_INTERVAL)


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
        yield "Warning", f'299 - "list built from cached content, possibly incomplete ({_quotable(str(failure))})"'
    else:
        yield "Age", str(age)
        confirmed = f"stale answer of the mirror: the upstream last confirmed it {age} s ago"
        yield "Warning", f'299 - "{confirmed} ({_quotable(str(failure))})"'


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
