"""Client connections and their limits on time, memory and file descriptors.

aiohttp parses the requests and calls the handler. A connection is reading (a request has started to arrive, or the
first one has not), idle (between requests) or answering. A connection that exceeds a time limit is closed; when there
are too many connections, the one that has waited longest is closed first.

Keeping the limits costs nothing per request: the waiting time is derived from aiohttp's own state. Only this module
reads private attributes of aiohttp's server; `tests/unit/server/test_aiohttp_private.py` lists each with its reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from operator import itemgetter
from typing import Protocol, cast

import structlog
from aiohttp import web

from mirror.config import LimitSettings
from mirror.observability.log import RateLimitedLog

_parse = web.RequestHandler.data_received  # runs for each request: looked up once
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Refusal = Callable[[web.BaseRequest, BaseException | None], web.StreamResponse]
_MAX_PARTIAL = 64 * 2**10  # bytes of an incomplete request head
_MAX_HEADERS = 128  # in one request
_BODY_BUFFER = 64 * 2**10  # bytes of a request body that aiohttp buffers; the mirror reads no body
_MAX_PIPELINED = 256 * 2**10  # bytes of the headers of requests that wait for an earlier response
_BUSY_INTERVAL = 0.1  # seconds without a new search after one found no connection to close: each costs CPU time
_CHECK_BATCH = 1000  # connections to check before the event loop runs other tasks
_CLOSE_POLL = 0.02  # seconds
_ABORT_TIMEOUT = 0.01  # seconds; aiohttp takes 0 for no time-out
_TCPI_BYTES_ACKED = 120  # the offset of tcpi_bytes_acked in struct tcp_info (linux/tcp.h)
log = structlog.get_logger()


class RequestBody(Protocol):
    """The part of aiohttp's StreamReader that the server uses."""

    def is_eof(self) -> bool: ...


class Connection(web.RequestHandler):
    """A client's connection, from the moment it is accepted.

    Attributes:
        limits: the limits that apply to it.
        client: the address of the client's machine.
        is_tls: whether it uses TLS, so that bytes must go through the transport.
        common_name: the common name of the verified client certificate, or None.
    """

    __slots__ = (
        *("_last_body", "_owner", "_partial_bytes", "_request_started_at", "_socket", "_transport"),
        *("_writable", "client", "common_name", "is_tls", "limits"),
    )

    def __init__(self, owner: Connections, accepted: socket.socket, client: str) -> None:
        self.limits = owner.limits
        loop = asyncio.get_running_loop()
        super().__init__(
            owner.server,
            loop=loop,
            # Longer than the limits here, so that aiohttp's own timer never fires.
            keepalive_timeout=self.limits.idle + self.limits.head + 60,
            access_log=None,  # type: ignore[arg-type]  # None disables aiohttp's access log
            max_line_size=self.limits.head_size,
            max_field_size=self.limits.head_size,
            max_headers=_MAX_HEADERS,
            read_bufsize=_BODY_BUFFER,
        )
        self.client = client
        self.common_name: str | None = None
        self.is_tls = False
        self._owner = owner
        self._socket = accepted
        self._transport: asyncio.Transport | None = None  # kept when aiohttp has closed it, until connection_lost
        self._request_started_at: float | None = loop.time()  # of the incomplete request; None if there is none
        self._partial_bytes = 0  # of the incomplete request
        self._last_body: RequestBody | None = None
        self._writable: asyncio.Future[None] | None = None

    # aiohttp's private state

    @property
    def is_answering(self) -> bool:
        """Return whether a request is being answered: the connection's task exists and does not wait for a request."""
        task, waiter = self._task_handler, self._waiter
        return task is not None and not task.done() and (waiter is None or waiter.done())

    @property
    def answered_at(self) -> float:
        """Return the time on the event loop's clock when the last response ended."""
        return self._next_keepalive_close_time - self._keepalive_timeout

    @property
    def queued_requests(self) -> int:
        """Return how many parsed requests wait for the response to an earlier one."""
        return len(self._messages)

    def queued_header_bytes(self) -> int:
        """Return the size of the headers of these requests."""
        heads = (message.raw_headers for message, _ in self._messages if hasattr(message, "raw_headers"))
        return sum(len(name) + len(value) for head in heads for name, value in head)

    def data_received(self, data: bytes) -> None:
        before = self._request_count
        _parse(self, data)
        if self._request_count == before:
            self.partial_request_received(len(data))
            return
        self._last_body = self._messages[-1][1]
        if self._request_started_at is not None:
            self._request_started_at = None
            self._partial_bytes = 0
        if len(self._messages) > 1 and self.queued_header_bytes() > _MAX_PIPELINED:
            self._owner.abort_oversized(self)

    # Our own

    @property
    def has_transport(self) -> bool:
        """Return whether the transport exists, so that connection_lost will be called."""
        return self._transport is not None

    @property
    def is_reading(self) -> bool:
        """Return whether a request has started to arrive, or the first one has not."""
        return self._request_started_at is not None

    @property
    def waiting_since(self) -> float | None:
        """Return when the connection began to wait for a request or the rest of one; None while it is answering."""
        if self.is_answering:
            return None
        return self.answered_at if self._request_started_at is None else self._request_started_at

    @property
    def unsent(self) -> int:
        """Return how many bytes wait in this process until the client acknowledges earlier ones."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def acknowledged_bytes(self) -> int:
        """Return how many bytes the client's machine has acknowledged so far; 0 if the socket is closed."""
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCPI_BYTES_ACKED + 8)
        except OSError:
            return 0
        (count,) = struct.unpack_from("Q", info, _TCPI_BYTES_ACKED)
        return int(count)

    def writable(self) -> asyncio.Future[None] | None:
        """Return a future that is done when the transport accepts more bytes; None if it does now."""
        if not self.writing_paused or self.transport is None:
            return None
        if self._writable is None:
            self._writable = asyncio.get_running_loop().create_future()
        return self._writable

    def abort(self) -> None:
        """Close the connection now and discard unsent bytes."""
        if self._transport is not None:
            self._transport.abort()
        else:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclass
        self.is_tls = transport.get_extra_info("ssl_object") is not None
        if self.is_tls:
            self._transport.set_write_buffer_limits(high=1)
            self.common_name = _common_name(transport.get_extra_info("peercert"))
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._owner.discard(self)
        self._wake_writer()
        super().connection_lost(exc)

    def partial_request_received(self, size: int) -> None:
        """Count *size* bytes that ended no request head; 0 when aiohttp only resumes a paused parser."""
        if not size or (self._last_body is not None and not self._last_body.is_eof()):
            return  # aiohttp limits a body by itself: it reads none that no handler asks for
        if self._request_started_at is None:
            self._request_started_at = asyncio.get_running_loop().time()
        self._partial_bytes += size
        if self._partial_bytes > max(_MAX_PARTIAL, 2 * self.limits.head_size):
            self._owner.abort_oversized(self)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status == 400:  # aiohttp could not parse the request
            return self._owner.refuse(request, exc)
        return super().handle_error(request, status, exc, message)

    def eof_received(self) -> bool:  # type: ignore[override]  # as in asyncio; aiohttp's returns None
        """Return whether to keep the connection open when the client has closed its sending side.

        The client may still wait for the responses to earlier requests (RFC 9112, 9.6). Over TLS asyncio closes the
        transport in any case.
        """
        keep_open = self.is_answering and not self.is_tls
        if keep_open:
            self._close_after_responses()
        return keep_open

    def _close_after_responses(self) -> None:
        if self.queued_requests:  # after close(), aiohttp would answer only one of them
            asyncio.get_running_loop().call_later(_CLOSE_POLL, self._close_after_responses)
        elif self.is_answering:
            self.close()
        else:
            self.force_close()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._wake_writer()

    def _wake_writer(self) -> None:
        waiter, self._writable = self._writable, None
        if waiter is not None:
            wake(waiter)


class Connections:
    """All client connections of the server."""

    def __init__(self, handler: Handler, refuse: Refusal, limits: LimitSettings, *, limit: int) -> None:
        """Create an empty set.

        Args:
            handler: answers a request.
            refuse: answers a request that aiohttp could not parse.
            limit: how many connections may be open at once.
        """
        self.refuse = refuse
        self.limits = limits
        self.server = web.Server(handler, handler_cancellation=True)
        self._limit = limit
        self._open: set[Connection] = set()
        self._closing: dict[Connection, tuple[float, int]] = {}  # time and acknowledged bytes at the last progress
        self._candidates: deque[tuple[bool, float, Connection]] = (
            deque()
        )  # for closing at the limit, in order, when last sorted
        self._no_search_before = 0.0
        self._now = asyncio.get_running_loop().time
        self._rate_limited_log = RateLimitedLog(log)

    def __len__(self) -> int:
        return len(self._open)

    def add(self, accepted: socket.socket, client: str) -> Connection | None:
        """Return a connection for an accepted socket; None if the limit is reached and no other can be closed."""
        if len(self._open) >= self._limit:
            self._rate_limited_log.warning("connections_full", limit=self._limit)
            if not self.close_longest_idle():
                return None
        connection = Connection(self, accepted, client)
        self._open.add(connection)
        return connection

    def discard(self, connection: Connection) -> None:
        """Remove a connection that is closed."""
        self._open.discard(connection)
        self._closing.pop(connection, None)

    def abort_oversized(self, connection: Connection) -> None:
        """Abort a connection that sent more bytes before a response than any valid request needs."""
        self._rate_limited_log.info("head_too_large", client=connection.client)
        connection.abort()

    def close_longest_idle(self) -> bool:
        """Abort the connection that has been idle longest; return whether there was one.

        Connections in the middle of a request, or without a first one, are closed only if none is idle.
        """
        candidate = self._next_candidate()
        if candidate is None and self._now() >= self._no_search_before:
            states = ((one.is_reading, one.waiting_since, one) for one in self._open)
            waiting = [(reading, since, one) for reading, since, one in states if since is not None]
            self._candidates = deque(sorted(waiting, key=itemgetter(0, 1)))
            if not waiting:
                self._no_search_before = self._now() + _BUSY_INTERVAL
            candidate = self._next_candidate()
        if candidate is None:
            return False
        self.discard(candidate)
        candidate.abort()
        return True

    def _next_candidate(self) -> Connection | None:
        """Return the first of the sorted connections whose state has not changed since they were sorted."""
        while self._candidates:
            reading, since, connection = self._candidates.popleft()
            if connection in self._open and (connection.is_reading, connection.waiting_since) == (reading, since):
                return connection
        return None

    async def enforce_time_limits(self) -> None:
        """Close connections that wait for too long. Run until cancelled."""
        limits = self.limits
        interval = min(1.0, limits.head / 4, limits.idle / 4, limits.unread / 4)
        while True:
            await asyncio.sleep(interval)
            for number, connection in enumerate(list(self._open)):
                self._check_time_limits(connection, self._now())
                if number % _CHECK_BATCH == _CHECK_BATCH - 1:
                    await asyncio.sleep(0)

    def _check_time_limits(self, connection: Connection, now: float) -> None:
        since = connection.waiting_since
        if since is None:
            self._closing.pop(connection, None)
        elif not connection.is_reading:
            if now - since > self.limits.idle:
                self._close_idle(connection, now)
        elif now - since > self.limits.head:
            self._rate_limited_log.info("head_late", client=connection.client)
            connection.abort()

    def _close_idle(self, connection: Connection, now: float) -> None:
        """Close an idle connection, but wait while the client still acknowledges bytes.

        Abort it after `limits.unread` seconds without progress.
        """
        acknowledged = connection.acknowledged_bytes()
        since, before = self._closing.setdefault(connection, (now, acknowledged))
        if acknowledged != before:
            self._closing[connection] = (now, acknowledged)
        elif now - since > self.limits.unread:
            connection.abort()
        elif not connection.unsent:
            connection.force_close()  # over TLS, connection_lost follows after the closing handshake

    async def shut_down(self, seconds: float, hurry: asyncio.Event) -> None:
        """Wait until the responses in progress end, at most *seconds* or until *hurry* is set; then abort the rest."""
        await asyncio.sleep(0)  # lets the handlers of requests that have just been parsed start
        self.server.pre_shutdown()
        for connection in [connection for connection in self._open if not connection.has_transport]:
            connection.abort()
        # aiohttp applies the time-out twice: before it cancels the handlers, and again after it.
        graceful = asyncio.create_task(self.server.shutdown(seconds / 2))
        hurried = asyncio.create_task(hurry.wait())
        await asyncio.wait([graceful, hurried], return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not graceful.done():
            graceful.cancel()
            await asyncio.wait([graceful])
            await self.server.shutdown(_ABORT_TIMEOUT)
        await asyncio.gather(graceful, hurried, return_exceptions=True)


def wake(waiter: asyncio.Future[None]) -> None:
    """Complete a future that waits for a connection, unless it is complete or cancelled already."""
    if not waiter.done():
        waiter.set_result(None)


def common_name(request: web.BaseRequest) -> str | None:
    """Return the common name of the verified client certificate of the request's connection; None without one."""
    connection = request.protocol
    return connection.common_name if isinstance(connection, Connection) else None


def _common_name(certificate: object) -> str | None:
    """Return the only common name of a certificate; None if there are several, as clients disagree which one counts."""
    subject = certificate.get("subject", ()) if isinstance(certificate, dict) else ()
    names = [value for relative in subject for key, value in relative if key == "commonName"]
    return str(names[0]) if len(names) == 1 and names[0] else None
