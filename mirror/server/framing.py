"""Framing: where one request ends and the next begins. What can be read in two ways is refused, and nothing after it.

Whoever stands between a client and the mirror must not see other requests than the mirror does (RFC 9112, 11.2).
aiohttp's parser refuses most of it; here are the words for that, and what it lets pass.
"""

from __future__ import annotations

from contextlib import suppress

import structlog
from aiohttp import web

from mirror.errors import RequestMalformed, RequestTooLarge
from mirror.server.answers import error_answer
from mirror.server.response import ClientGone, Sent, answer, render, sent

_TOO_LONG = frozenset({"LineTooLong"})  # aiohttp's names
log = structlog.get_logger()


def check_framing(request: web.BaseRequest) -> None:
    """Whether the end of *request* is where everybody sees it; ends its connection if that may be doubted.

    Raises:
        RequestMalformed
    """
    if "Upgrade" in request.headers:
        # The mirror stays with HTTP/1.1, as it may. But aiohttp loses what came behind such a request in one piece with
        # it, and would take up with the middle of another.
        _end_after(request)
    if request.version >= (1, 1):
        return
    if request.version < (1, 0):
        _end_after(request)
        raise RequestMalformed("HTTP/1.0 or HTTP/1.1, and no older one, is spoken here")
    if "Transfer-Encoding" in request.headers:  # which HTTP/1.0 does not know (RFC 9112, 6.1)
        _end_after(request)
        raise RequestMalformed("Transfer-Encoding is for HTTP/1.1, and the request is of HTTP/1.0")


def malformed(request: web.BaseRequest, error: BaseException | None) -> Sent:
    """Answers what could not be read. Its words are not repeated: a login may be among them."""
    kind = type(error).__name__
    log.info("request_malformed", client=request.remote, reason=kind)
    failure = RequestMalformed("this is no request of HTTP/1.1 that can be read in only one way", reason=kind)
    if kind in _TOO_LONG:
        failure = RequestTooLarge("a line of the request is longer than limits.head_size", reason=kind)
    status, headers, body = error_answer(failure)
    with suppress(ClientGone):
        answer(request, render(status, headers), body)
    return sent(keep_alive=False)


def _end_after(request: web.BaseRequest) -> None:
    request.protocol.close()  # when this request is answered; nothing more is read
