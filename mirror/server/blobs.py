"""Answers to blob requests: whole, in part, in several parts (RFC 9110, 14)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

import structlog
from aiohttp import web

from mirror.auth.rules import Caller
from mirror.errors import MirrorError
from mirror.oci.digest import Digest
from mirror.oci.ranges import Span, requested_spans
from mirror.oci.routes import BlobRoute
from mirror.pull.results import BlobResult, FileSpan
from mirror.pull.service import PullService
from mirror.server.access_log import AccessLog
from mirror.server.answers import blob_headers, is_known, multipart_headers, part_headers, part_opening
from mirror.server.response import ClientGone, WrittenResponse, answer, not_modified, render, written_response
from mirror.server.response_writer import ResponseWriter, writer_for

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to send: a head, parts (each with the bytes to say before it), and the bytes to end with."""

    status: int
    head: bytes
    parts: tuple[tuple[bytes, Span], ...]
    ending: bytes = b""


class Blobs:
    """`/v2/<name>/blobs/<digest>`."""

    def __init__(self, record: AccessLog) -> None:
        self._record = record

    async def answer(
        self, request: web.BaseRequest, route: BlobRoute, pulls: PullService, caller: Caller, started: float
    ) -> WrittenResponse:
        known = is_known(request.headers.getall("If-None-Match", ()), route.digest)
        if known or request.method == "HEAD":
            size, outcome = await pulls.blob_size(route.asked.repository, route.digest)
        else:
            async with pulls.blob(route.asked.repository, route.digest) as pull:
                return await self._stream(request, route, pull, _plan(request, route, pull), caller, started)
        head = render(200, blob_headers(route.asked, route.digest, size, outcome))
        if known:
            head = not_modified(head)
        self._record.first_byte(started, route.asked.repository.upstream)
        done = answer(request, head)
        self._record.served(
            request, caller, "blob", route.asked, str(route.digest), route.digest, outcome.value, 0, started
        )
        return done

    async def _stream(
        self,
        request: web.BaseRequest,
        route: BlobRoute,
        pull: BlobResult,
        plan: _Plan,
        caller: Caller,
        started: float,
    ) -> WrittenResponse:
        """Sends what is planned. A failure before the head is an error answer; one after it cuts the connection."""
        channel = writer_for(request)
        on_first_byte = partial(self._record.first_byte, started, route.asked.repository.upstream)
        name = str(route.digest)
        outcome = pull.outcome.value
        reason: str | None = None
        try:
            async with channel:
                await _transmit(channel, pull, plan, on_first_byte)
        except MirrorError as failure:
            pull.failed(failure)
            if not channel.begun:
                raise
            outcome, reason = "cut", str(failure)
        except ClientGone:
            outcome, reason = "left", "the client closed the connection"
        except asyncio.CancelledError:
            outcome, reason = "left", "the client closed the connection"
            raise
        except Exception as error:
            if not channel.begun:
                raise
            log.exception("answer_crashed", digest=name)
            outcome, reason = "cut", type(error).__name__
        finally:
            if channel.begun:
                self._record.served(
                    request, caller, "blob", route.asked, name, route.digest, outcome, channel.sent, started, reason
                )
        return written_response(keep_alive=reason is None and request.keep_alive)


def _plan(request: web.BaseRequest, route: BlobRoute, pull: BlobResult) -> _Plan:
    asked, digest, size = route.asked, route.digest, pull.size
    spans = requested_spans(_range(request, digest), size)
    # Each part of what is only passed through would be a request to upstream.
    if spans is None or (len(spans) > 1 and pull.readable is None):
        return _Plan(200, render(200, blob_headers(asked, digest, size, pull.outcome)), ((b"", Span(0, size)),))
    if len(spans) == 1:
        head = render(206, part_headers(asked, digest, spans[0], size, pull.outcome))
        return _Plan(206, head, ((b"", spans[0]),))
    boundary = secrets.token_hex(16)
    parts = tuple((part_opening(boundary, span, size, first=not at), span) for at, span in enumerate(spans))
    ending = f"\r\n--{boundary}--\r\n".encode()
    length = sum(len(opening) + len(span) for opening, span in parts) + len(ending)
    head = render(206, multipart_headers(asked, digest, boundary, length, pull.outcome))
    return _Plan(206, head, parts, ending)


def _range(request: web.BaseRequest, digest: Digest) -> str | None:
    """The Range header, unless If-Range says that it is about other content (RFC 9110, 13.1.5)."""
    condition = request.headers.get("If-Range")
    return request.headers.get("Range") if condition in {None, f'"{digest}"'} else None


async def _transmit(channel: ResponseWriter, pull: BlobResult, plan: _Plan, on_first_byte: Callable[[], None]) -> None:
    for number, (opening, span) in enumerate(plan.parts):
        async with aclosing(pull.content(span)) as content:
            # No status line before there is a byte to follow it: nobody recovers from a 200 with nothing behind it.
            piece = await anext(content, b"")
            if not number:
                on_first_byte()
                await channel.head(plan.head, more=any(span for _, span in plan.parts))
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
