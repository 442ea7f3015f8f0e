"""Blob requests: the whole blob, one range, or several ranges (RFC 9110, 14)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

import structlog
from aiohttp import web

from mirror.errors import MirrorError
from mirror.oci.digest import Digest
from mirror.oci.ranges import Span, requested_spans
from mirror.oci.routes import BlobRoute
from mirror.origin import PullContext
from mirror.primitives.lru import LruCache
from mirror.pull.blob_content import FileSpan
from mirror.pull.results import BlobResult, CacheOutcome
from mirror.pull.service import PullService
from mirror.server.access_log import AccessLog
from mirror.server.response import (
    ClientGone,
    WrittenResponse,
    answer,
    blob_headers,
    is_known,
    multipart_headers,
    not_modified,
    part_headers,
    part_opening,
    render,
    written_response,
)
from mirror.server.response_writer import ResponseWriter, writer_for

_MAX_HEADS = 4096
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Plan:
    """An answer to send: its head, its parts, each with the framing before it, and the framing at the end."""

    status: int
    head: bytes
    parts: tuple[tuple[bytes, Span], ...]
    ending: bytes = b""


class Blobs:
    """`/v2/<name>/blobs/<digest>`."""

    def __init__(self, pulls: PullService, record: AccessLog) -> None:
        self._pulls = pulls
        self._record = record
        self._heads = LruCache[tuple[Digest, int, str | None], bytes](_MAX_HEADS)  # of whole hits, by digest, size, ns

    async def answer(
        self, request: web.BaseRequest, route: BlobRoute, context: PullContext, started: float
    ) -> WrittenResponse:
        """Answer GET or HEAD.

        Raises:
            RangeUnsatisfiable: if the Range header selects no byte.
            BlobUnknown, Denied, UpstreamError, StorageFailed: if the blob can't be served; see `PullService.blob`.
        """
        headers = request.headers
        known = "If-None-Match" in headers and is_known(headers.getall("If-None-Match"), route.digest)
        if known or request.method == "HEAD":
            return await self._head_only(request, route, context, started, known=known)
        async with self._pulls.blob(context, route.digest) as blob:
            plan = _plan_ranges(request, route, blob) if "Range" in headers else None
            plan = plan or _Plan(200, self._head(route, blob), ((b"", Span(0, blob.size)),))
            return await self._stream(request, route, blob, plan, context, started)

    async def _head_only(
        self, request: web.BaseRequest, route: BlobRoute, context: PullContext, started: float, *, known: bool
    ) -> WrittenResponse:
        size, outcome = await self._pulls.blob_size(context, route.digest)
        head = render(200, blob_headers(route.requested, route.digest, size, outcome))
        if known:
            head = not_modified(head)
        self._record.first_byte(started, route.requested.repository.upstream)
        done = answer(request, head)
        self._record.served(
            request, context.caller, "blob", route.requested, route.digest.text, route.digest, outcome.value, 0, started
        )
        return done

    def _head(self, route: BlobRoute, blob: BlobResult) -> bytes:
        """Return the head of a whole answer; of a hit it is the same bytes every time.

        The size is part of the key: that of a damaged file must not remain after the blob was fetched again.
        """
        if blob.outcome is not CacheOutcome.HIT:
            return render(200, blob_headers(route.requested, route.digest, blob.size, blob.outcome))
        key = (route.digest, blob.size, route.requested.ns)
        head = self._heads.get(key)
        if head is None:
            head = render(200, blob_headers(route.requested, route.digest, blob.size, blob.outcome))
            self._heads.set(key, head)
        return head

    async def _stream(
        self,
        request: web.BaseRequest,
        route: BlobRoute,
        blob: BlobResult,
        plan: _Plan,
        context: PullContext,
        started: float,
    ) -> WrittenResponse:
        """Send the planned answer. A failure before the head is an error answer; one after it ends the connection."""
        channel = writer_for(request)
        name = route.digest.text
        outcome = blob.outcome.value
        reason: str | None = None
        on_first_byte = partial(self._record.first_byte, started, route.requested.repository.upstream)
        try:
            async with channel:
                await _transmit(channel, blob, plan, on_first_byte)
        except MirrorError as failure:
            blob.content.failed(failure)
            if not channel.head_written:
                raise
            outcome, reason = "aborted", str(failure)
        except ClientGone:
            outcome, reason = "client_disconnected", "the client closed the connection"
        except asyncio.CancelledError:
            outcome, reason = "client_disconnected", "the client closed the connection"
            raise
        except Exception as error:
            if not channel.head_written:
                raise
            log.exception("answer_crashed", digest=name)
            outcome, reason = "aborted", type(error).__name__
        finally:
            if channel.head_written:
                self._record.served(
                    *(
                        request,
                        context.caller,
                        "blob",
                        route.requested,
                        name,
                        route.digest,
                        outcome,
                        channel.sent,
                        started,
                    ),
                    reason,
                )
        return written_response(keep_alive=reason is None and request.keep_alive)


def _plan_ranges(request: web.BaseRequest, route: BlobRoute, blob: BlobResult) -> _Plan | None:
    """Return the plan for the requested ranges; None to send the whole blob (RFC 9110, 14.2)."""
    requested, digest, size = route.requested, route.digest, blob.size
    spans = requested_spans(_range(request, digest), size)
    # Each part of a blob that is only passed through would be a request to the upstream.
    if spans is None or (len(spans) > 1 and blob.content.readable is None):
        return None
    if len(spans) == 1:
        head = render(206, part_headers(requested, digest, spans[0], size, blob.outcome))
        return _Plan(206, head, ((b"", spans[0]),))
    boundary = secrets.token_hex(16)
    parts = tuple((part_opening(boundary, span, size, first=not at), span) for at, span in enumerate(spans))
    ending = f"\r\n--{boundary}--\r\n".encode()
    length = sum(len(opening) + len(span) for opening, span in parts) + len(ending)
    head = render(206, multipart_headers(requested, digest, boundary, length, blob.outcome))
    return _Plan(206, head, parts, ending)


def _range(request: web.BaseRequest, digest: Digest) -> str | None:
    """Return the Range header, unless If-Range names other content (RFC 9110, 13.1.5)."""
    condition = request.headers.get("If-Range")
    return request.headers.get("Range") if condition in {None, f'"{digest}"'} else None


async def _transmit(channel: ResponseWriter, blob: BlobResult, plan: _Plan, on_first_byte: Callable[[], None]) -> None:
    for number, (opening, span) in enumerate(plan.parts):
        async with aclosing(blob.content.read(span)) as content:
            # No status line before there is a byte to follow it: no client recovers from a 200 with an empty body.
            piece = await anext(content, b"")
            if not number:
                on_first_byte()
                await channel.head(plan.head, more=blob.size > 0)
            await channel.write_framing(opening)
            await _send(channel, piece)
            async for piece in content:
                await _send(channel, piece)
    await channel.write_framing(plan.ending)


async def _send(channel: ResponseWriter, piece: FileSpan | bytes) -> None:
    if isinstance(piece, bytes):
        await channel.write(piece)
    else:
        await channel.send_file(piece.readable, piece.span.start, piece.span.end)
