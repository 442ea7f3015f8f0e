"""Connections of clients: what each may take, of time, of memory, of descriptors.

aiohttp reads the requests and calls for the answers. A connection waits for a request to arrive (reading), for the next
one (idle), or is being answered. Who keeps the mirror waiting for longer than the limits say is let go, and when there
are too many, whoever has waited longest goes first.

Nothing is written down for a request: how long a connection waits is read off what aiohttp keeps anyhow. What of that
is private to it is read here, and nowhere else.
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

_receive = web.RequestHandler.data_received  # with each request: found once
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Refusal = Callable[[web.BaseRequest, BaseException | None], web.StreamResponse]
_AHEAD = 64 * 2**10  # bytes of a request that may be here before it is whole
_HEADERS = 128  # in one request
_BODY = 64 * 2**10  # bytes of a request's body that wait for nobody: the mirror reads none
_PIPELINED = 256 * 2**10  # bytes of requests that wait for the answer to one before them
_BUSY_FOR = (
    0.1  # seconds in which all are taken for busy that were; to look for each new one would be a load of its own
)
_TURN = 1000  # connections to look at before others have their turn
_LOOK_AGAIN = 0.02  # seconds
_AT_ONCE = 0.01  # seconds; none at all would mean any number of them
_ACKNOWLEDGED = 120  # where struct tcp_info has tcpi_bytes_acked (linux/tcp.h)
log = structlog.get_logger()


class Body(Protocol):
    """What is asked of a request's body."""

    def is_eof(self) -> bool: ...


class Connection(web.RequestHandler):
    """A client's connection, from the moment that it was accepted.

    Attributes:
        limits: what it may take.
        client: the address of the client's machine.
        is_tls: whether it speaks TLS, so that bytes must go through the transport.
        common_name: of the certificate that the client showed and one of the known authorities signed; or None.
    """

    __slots__ = (
        *("_ahead", "_begun", "_body", "_home", "_line", "_outlet", "_room"),
        *("client", "common_name", "is_tls", "limits"),
    )

    def __init__(self, home: Connections, line: socket.socket, client: str) -> None:
        self.limits = home.limits
        loop = asyncio.get_running_loop()
        super().__init__(
            home.server,
            loop=loop,
            # Longer than the limits here allow: aiohttp's own timer never comes to it.
            keepalive_timeout=self.limits.idle + self.limits.head + 60,
            access_log=None,  # type: ignore[arg-type]  # which is how it is switched off
            max_line_size=self.limits.head_size,
            max_field_size=self.limits.head_size,
            max_headers=_HEADERS,
            read_bufsize=_BODY,
        )
        self.client = client
        self.common_name: str | None = None
        self.is_tls = False
        self._home = home
        self._line = line
        self._outlet: asyncio.Transport | None = None  # also when aiohttp has closed it, until it is lost
        self._begun: float | None = loop.time()  # when the request began that is not here yet; the first, with the line
        self._ahead = 0  # bytes of it
        self._body: Body | None = None  # of the last request
        self._room: asyncio.Future[None] | None = None

    # What aiohttp does not tell.

    @property
    def _is_answering(self) -> bool:
        """Whether a request is here that is not answered yet: the task of the connection waits for no other."""
        task, waiter = self._task_handler, self._waiter
        return task is not None and not task.done() and (waiter is None or waiter.done())

    @property
    def _answered_at(self) -> float:
        """When the last request was answered."""
        return self._next_keepalive_close_time - self._keepalive_timeout

    def _waiting_bytes(self) -> int:
        """Bytes of the headers of requests that wait for their turn."""
        heads = (getattr(message, "raw_headers", ()) for message, _ in self._messages)
        return sum(len(name) + len(value) for head in heads for name, value in head)

    # Until here.

    @property
    def is_made(self) -> bool:
        """Whether the protocol knows its transport, or did."""
        return self._outlet is not None

    @property
    def is_reading(self) -> bool:
        """Whether a request has begun to come, or the first one is still to."""
        return self._begun is not None

    @property
    def waits_since(self) -> float | None:
        """When it began to wait for a request to come, or for the rest of it; None while requests are answered."""
        if self._is_answering:
            return None
        return self._answered_at if self._begun is None else self._begun

    @property
    def unsent(self) -> int:
        """Bytes that wait in this process for the client to take others."""
        return 0 if self._outlet is None else self._outlet.get_write_buffer_size()

    def taken(self) -> int:
        """Bytes that the client's machine has acknowledged so far."""
        try:
            facts = self._line.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED + 8)
        except OSError:  # closed
            return 0
        (count,) = struct.unpack_from("Q", facts, _ACKNOWLEDGED)
        return int(count)

    def room(self) -> asyncio.Future[None] | None:
        """Done when the client has taken what was written through the transport; None when nothing has to wait."""
        if not self.writing_paused or self.transport is None:
            return None
        if self._room is None:
            self._room = asyncio.get_running_loop().create_future()
        return self._room

    def drop(self) -> None:
        """Ends it now; what was not sent is lost."""
        if self._outlet is not None:
            self._outlet.abort()
        else:
            with contextlib.suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._outlet = cast(asyncio.Transport, transport)  # uvloop's are not of that class
        self.is_tls = transport.get_extra_info("ssl_object") is not None
        if self.is_tls:
            self._outlet.set_write_buffer_limits(high=1)
            self.common_name = _common_name(transport.get_extra_info("peercert"))
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._home.lost(self)
        self._make_room()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self._request_count
        _receive(self, data)
        if self._request_count == before:
            self._comes_on(len(data))
            return
        self._body = self._messages[-1][1]
        if self._begun is not None:
            self._begun = None
            self._ahead = 0
        if len(self._messages) > 1 and self._waiting_bytes() > _PIPELINED:
            self._home.too_much(self)

    def _comes_on(self, size: int) -> None:
        """A part of a request, and not its end."""
        if self._body is not None and not self._body.is_eof():
            return  # aiohttp reads none that is not asked for, and closes where too much comes
        if self._begun is None:
            self._begun = self._loop.time()
        self._ahead += size
        if self._ahead > max(_AHEAD, 2 * self.limits.head_size):
            self._home.too_much(self)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        unread = status == 400
        return self._home.refuse(request, exc) if unread else super().handle_error(request, status, exc, message)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's says bool; aiohttp's never needs it
        """The client sends no more. What it asked for before, it may still be waiting for (RFC 9112, 9.6).

        TLS knows no such thing here: its transport closes.
        """
        stays = self._is_answering and not self.is_tls
        if stays:
            self._close_when_answered()
        return stays

    def _close_when_answered(self) -> None:
        if self._messages:  # of which, told to close, aiohttp would answer one at most
            self._loop.call_later(_LOOK_AGAIN, self._close_when_answered)
        elif self._is_answering:
            self.close()
        else:
            self.force_close()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._make_room()

    def _make_room(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)


class Connections:
    """All of them."""

    def __init__(self, handler: Handler, refuse: Refusal, limits: LimitSettings, *, most: int) -> None:
        """*refuse* answers what could not be read as a request."""
        self.refuse = refuse
        self.limits = limits
        self.server = web.Server(handler, handler_cancellation=True)
        self._most = most
        self._all: set[Connection] = set()
        self._leaving: dict[Connection, tuple[float, int]] = {}  # since when, and what they had taken then
        self._next: deque[tuple[bool, float, Connection]] = (
            deque()
        )  # to be evicted, as they waited when that was sorted
        self._sort_after = 0.0
        self._now = asyncio.get_running_loop().time
        self._rate_limited_log = RateLimitedLog(log)

    def __len__(self) -> int:
        return len(self._all)

    def opened(self, line: socket.socket, client: str) -> Connection | None:
        """Takes a new one in; None where there are too many, and none that can go for it."""
        if len(self._all) >= self._most:
            self._rate_limited_log.warning("connections_full", limit=self._most)
            if not self.evict():
                return None
        connection = Connection(self, line, client)
        self._all.add(connection)
        return connection

    def lost(self, connection: Connection) -> None:
        """It is no more."""
        self._all.discard(connection)
        self._leaving.pop(connection, None)

    def too_much(self, connection: Connection) -> None:
        """It sent more before an answer than any request needs."""
        self._rate_limited_log.info("head_too_large", client=connection.client)
        connection.drop()

    def evict(self) -> bool:
        """Lets one go that waits for a request, if any does: the one that waits for its next longest of all.

        Those that are in the middle of a request, or never made one, go after those.
        """
        longest = self._longest()
        if longest is None and self._now() >= self._sort_after:
            waiting = ((one.is_reading, one.waits_since, one) for one in self._all)
            known = [(reading, since, one) for reading, since, one in waiting if since is not None]
            self._next = deque(sorted(known, key=itemgetter(0, 1)))
            if not known:
                self._sort_after = self._now() + _BUSY_FOR
            longest = self._longest()
        if longest is None:
            return False
        self.lost(longest)
        longest.drop()
        return True

    def _longest(self) -> Connection | None:
        """Of those that were sorted, the first that still waits as it did."""
        while self._next:
            reading, since, connection = self._next.popleft()
            if connection in self._all and (connection.is_reading, connection.waits_since) == (reading, since):
                return connection
        return None

    async def keep_limits(self) -> None:
        """Lets go whoever waits too long. Runs until it is cancelled."""
        limits = self.limits
        interval = min(1.0, limits.head / 4, limits.idle / 4, limits.unread / 4)
        while True:
            await asyncio.sleep(interval)
            for number, connection in enumerate(list(self._all)):
                self._look(connection, self._now())
                if number % _TURN == _TURN - 1:
                    await asyncio.sleep(0)

    def _look(self, connection: Connection, now: float) -> None:
        since = connection.waits_since
        if since is None:
            self._leaving.pop(connection, None)
        elif not connection.is_reading:
            if now - since > self.limits.idle:
                self._see_off(connection, now)
        elif now - since > self.limits.head:
            self._rate_limited_log.info("head_late", client=connection.client)
            connection.drop()

    def _see_off(self, connection: Connection, now: float) -> None:
        """Closes it; but what it is still taking it may take."""
        taken = connection.taken()
        since, before = self._leaving.setdefault(connection, (now, taken))
        if taken != before:
            self._leaving[connection] = (now, taken)
        elif now - since > self.limits.unread:
            connection.drop()
        elif not connection.unsent:
            connection.force_close()  # it is lost when TLS, too, has said goodbye

    async def end(self, seconds: float, hurry: asyncio.Event) -> None:
        """Lets running answers end, for so many *seconds* at most or until *hurry* is set; then ends them all."""
        await asyncio.sleep(0)  # what has just come is an answer that runs
        self.server.pre_shutdown()
        for connection in [connection for connection in self._all if not connection.is_made]:
            connection.drop()
        # aiohttp waits twice: for answers to end, and then again before it cancels them.
        ending = asyncio.create_task(self.server.shutdown(seconds / 2))
        hurried = asyncio.create_task(hurry.wait())
        await asyncio.wait([ending, hurried], return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not ending.done():
            ending.cancel()
            await asyncio.wait([ending])
            await self.server.shutdown(_AT_ONCE)
        await asyncio.gather(ending, hurried, return_exceptions=True)


def common_name(request: web.BaseRequest) -> str | None:
    """Of the certificate that came with the request's connection; None where none did, or none that is trusted."""
    connection = request.protocol
    return connection.common_name if isinstance(connection, Connection) else None


def _common_name(certificate: object) -> str | None:
    """None also where there are several: whose it is must not be a matter of taste."""
    subject = certificate.get("subject", ()) if isinstance(certificate, dict) else ()
    names = [value for relative in subject for key, value in relative if key == "commonName"]
    return str(names[0]) if len(names) == 1 and names[0] else None
