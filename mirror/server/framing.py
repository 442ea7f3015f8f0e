"""Protection against request smuggling: rejects requests whose end is ambiguous, and closes their connection.

A proxy between the client and the mirror must see the same requests as the mirror (RFC 9112, 11.2). aiohttp's parser
rejects most ambiguous requests; this module writes the responses to those, and rejects the ones that aiohttp accepts.
"""

from __future__ import annotations

from contextlib import suppress

import structlog
from aiohttp import web

from mirror.errors import RequestMalformed, RequestTooLarge
from mirror.server.response import ClientGone, WrittenResponse, answer, error_answer, render, written_response

_TOO_LONG = frozenset({"LineTooLong"})  # names of aiohttp's exceptions
log = structlog.get_logger()


def require_unambiguous_framing(request: web.BaseRequest) -> None:
    """Reject a request with ambiguous framing; close the connection after *request* if its end may be ambiguous.

    Raises:
        RequestMalformed: if the HTTP version is below 1.0, or an HTTP/1.0 request has Transfer-Encoding.
    """
    if "Upgrade" in request.headers:
        # The mirror ignores Upgrade, as RFC 9110, 7.8 allows. But aiohttp loses bytes that arrived in one segment with
        # such a request, and would then parse from the middle of a later request.
        _close_after(request)
    if request.version >= (1, 1):
        return
    if request.version < (1, 0):
        _close_after(request)
        raise RequestMalformed("the HTTP version is too old: use HTTP/1.1 or HTTP/1.0")
    if "Transfer-Encoding" in request.headers:  # HTTP/1.0 does not define it (RFC 9112, 6.1)
        _close_after(request)
        raise RequestMalformed("an HTTP/1.0 request must not have Transfer-Encoding: use HTTP/1.1")


def malformed(request: web.BaseRequest, error: BaseException | None) -> WrittenResponse:
    """Answer a request that aiohttp could not parse. The response quotes none of it: it may contain a password."""
    kind = type(error).__name__
    log.info("request_malformed", client=request.remote, reason=kind)
    failure = RequestMalformed(
        "the request is malformed or ambiguous HTTP/1.1 (RFC 9112): check the client and any proxy before the mirror",
        reason=kind,
    )
    if kind in _TOO_LONG:
        failure = RequestTooLarge("a line of the request is longer than limits.head_size", reason=kind)
    status, headers, body = error_answer(failure)
    with suppress(ClientGone):
        answer(request, render(status, headers), body)
    return written_response(keep_alive=False)


def _close_after(request: web.BaseRequest) -> None:
    request.protocol.close()  # closes after the response; no further request is read
