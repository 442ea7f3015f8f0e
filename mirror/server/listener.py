"""The listener: a port, and who comes in by it."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from mirror.config import LimitSettings, ServerSettings
from mirror.errors import ConfigurationInvalid
from mirror.observability.log import RateLimitedLog
from mirror.observability.metrics import Metrics
from mirror.server.app import App
from mirror.server.connections import Connection, Connections
from mirror.server.fds import affordable_connections, raise_limit
from mirror.server.framing import malformed
from mirror.server.tls import Certificate

_BACKLOG = 1024
_AT_ONCE = 64  # connections to accept before anybody else has a turn
_BREATH = 0.1  # seconds without accepting, when the system has no descriptor or no memory left
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_HANDSHAKE = b"\x16"  # the first byte of a TLS connection (RFC 8446, 5.1)
_HEARD = 64 * 2**10  # bytes
_CURES = {
    errno.EADDRINUSE: "another program listens there; stop it, or choose another port with --listen",
    errno.EACCES: "ports below 1024 are for root; choose another with --listen",
    errno.EADDRNOTAVAIL: "this machine has no such address; 0.0.0.0 means all that it has",
}
_SPEAKS_TLS = (
    b'{"errors":[{"code":"UNSUPPORTED","message":"this port speaks TLS: use https://","detail":{"tls":true}}]}'
)
_NOT_PLAIN = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_SPEAKS_TLS), _SPEAKS_TLS)
)
log = structlog.get_logger()


@asynccontextmanager
async def listening(
    app: App,
    settings: ServerSettings,
    limits: LimitSettings,
    certificate: Certificate | None,
    metrics: Metrics,
    *,
    shutdown: float,
    hurry: asyncio.Event,
) -> AsyncIterator[str]:
    """Listens until the context ends; then lets running answers end, for *shutdown* seconds at most, or until *hurry*.

    Args:
        certificate: what to speak TLS with; None for plain HTTP.

    Yields:
        the address, as a URL.

    Raises:
        ConfigurationInvalid: nobody can listen there.
    """
    most = affordable_connections(limits.connections, raise_limit())
    connections = Connections(app.handle, malformed, limits, most=most)
    metrics.connections.set_function(lambda: len(connections))
    metrics.connections_limit.set(most)
    sockets = await _bound(settings)
    listener = Listener(sockets, connections, certificate)
    keeping = asyncio.create_task(connections.keep_limits(), name="limits of connections")
    try:
        host, port = sockets[0].getsockname()[:2]
        scheme = "http" if certificate is None else "https"
        url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        log.info("listening", url=url)
        yield url
    finally:
        log.info("stopping", seconds_at_most=shutdown)
        listener.close()
        await connections.end(shutdown, hurry)
        await listener.ended()
        keeping.cancel()
        await asyncio.wait([keeping])


async def _bound(settings: ServerSettings) -> list[socket.socket]:
    """Sockets that listen, one for each address that the host's name stands for."""
    sockets: list[socket.socket] = []
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, _, _, _, address in dict.fromkeys(found):
            listener = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(listener)
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
    except OSError as error:
        for listener in sockets:
            listener.close()
        cure = _CURES.get(error.errno or 0, "see --listen")
        raise ConfigurationInvalid(f"can't listen on {settings.listen}: {error.strerror or error}; {cure}") from error
    return sockets


class Listener:
    """Accepts connections, and brings each to where its requests are read."""

    def __init__(self, sockets: list[socket.socket], connections: Connections, certificate: Certificate | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets = sockets
        self._connections = connections
        self._certificate = certificate
        self._arriving: set[asyncio.Task[None]] = set()
        self._rate_limited_log = RateLimitedLog(log)
        for listener in sockets:
            self._loop.add_reader(listener, self._accept, listener)

    def close(self) -> None:
        """Accepts no more."""
        for listener in self._sockets:
            self._loop.remove_reader(listener)
            listener.close()

    async def ended(self) -> None:
        """Ends what has not come as far as a connection."""
        for task in self._arriving:
            task.cancel()
        await asyncio.gather(*self._arriving, return_exceptions=True)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                line, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._take_a_breath(listener, error)
                    return
                continue  # the client was gone before its connection was there
            self._admit(line, str(address[0]))

    def _take_a_breath(self, listener: socket.socket, error: OSError) -> None:
        """The connection stays where it is, and would be told of again at once, and again."""
        self._rate_limited_log.warning("descriptors_exhausted", reason=error.strerror or str(error))
        self._connections.evict()
        self._loop.remove_reader(listener)
        self._loop.call_later(_BREATH, self._go_on, listener)

    def _go_on(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            self._loop.add_reader(listener, self._accept, listener)

    def _admit(self, line: socket.socket, client: str) -> None:
        connection = self._connections.opened(line, client)
        if connection is None:
            line.close()
            return
        line.setblocking(False)
        task = self._loop.create_task(self._arrive(line, connection))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    async def _arrive(self, line: socket.socket, connection: Connection) -> None:
        try:
            if self._certificate is None:
                await self._loop.connect_accepted_socket(lambda: connection, line)
            else:
                await self._greet(line, connection, self._certificate)
        except OSError as error:  # ssl.SSLError too
            if self._certificate is not None:
                reason = getattr(error, "reason", None) or str(error) or type(error).__name__
                self._rate_limited_log.info("handshake_failed", client=connection.client, reason=reason)
        finally:
            if not connection.is_made:  # or else it is told when it is lost
                self._connections.lost(connection)
                line.close()

    async def _greet(self, line: socket.socket, connection: Connection, certificate: Certificate) -> None:
        """Waits for a first byte before anything is made for the client, and goes on with TLS if it is TLS."""
        await self._readable(line)
        first = line.recv(1, socket.MSG_PEEK)
        if first == _HANDSHAKE:
            limits = self._connections.limits
            await self._loop.connect_accepted_socket(
                lambda: connection,
                line,
                ssl=certificate.context,
                ssl_handshake_timeout=limits.head,
                ssl_shutdown_timeout=limits.unread,  # which is also the time for what was not yet taken
            )
        elif first:
            line.recv(_HEARD)  # closed with something unread, the client might never see the answer
            line.send(_NOT_PLAIN)

    async def _readable(self, line: socket.socket) -> None:
        ready = self._loop.create_future()
        self._loop.add_reader(line, _wake, ready)
        try:
            await ready
        finally:
            self._loop.remove_reader(line)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
