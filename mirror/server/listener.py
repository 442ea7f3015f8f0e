"""The listener: binds the port, accepts connections, and starts TLS on them."""

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
from mirror.server.connections import Connection, Connections, wake
from mirror.server.fds import affordable_connections, raise_limit
from mirror.server.framing import malformed
from mirror.server.tls import Certificate

_BACKLOG = 1024
_ACCEPT_BATCH = 64  # connections to accept before the event loop runs other tasks
_ACCEPT_PAUSE = 0.1  # seconds without accepting when the system is out of file descriptors or memory
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_TLS_HANDSHAKE = b"\x16"  # the first byte of a TLS connection (RFC 8446, 5.1)
_MAX_DISCARDED = 64 * 2**10  # bytes of a plain HTTP request on a TLS port
_FIXES = {
    errno.EADDRINUSE: "another program listens there; stop it, or choose another port with --listen",
    errno.EACCES: "only root may use ports below 1024; choose another with --listen",
    errno.EADDRNOTAVAIL: "this machine has no such address; 0.0.0.0 means all its addresses",
}
_TLS_ONLY_BODY = (
    b'{"errors":[{"code":"UNSUPPORTED","message":"this port speaks TLS: use https://","detail":{"tls":true}}]}'
)
_TLS_ONLY = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_TLS_ONLY_BODY), _TLS_ONLY_BODY)
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
    """Serve *app* until the context ends, then shut down gracefully. Yield the address as a URL.

    The shutdown waits until the responses in progress end: at most *shutdown* seconds, or until *hurry* is set.

    Args:
        certificate: the server certificate for TLS; None for plain HTTP.

    Raises:
        ConfigurationInvalid: if the address can't be bound.
    """
    limit = affordable_connections(limits.connections, raise_limit())
    connections = Connections(app.handle, malformed, limits, limit=limit)
    metrics.connections.set_function(lambda: len(connections))
    metrics.connections_limit.set(limit)
    sockets = await _bind(settings)
    listener = Listener(sockets, connections, certificate)
    enforcing = asyncio.create_task(connections.enforce_time_limits(), name="time limits of connections")
    try:
        url = _url(sockets[0], "http" if certificate is None else "https")
        log.info("listening", url=url)
        yield url
    finally:
        log.info("stopping", seconds_at_most=shutdown)
        listener.close()
        await connections.shut_down(shutdown, hurry)
        await listener.wait_closed()
        enforcing.cancel()
        await asyncio.wait([enforcing])


def _url(listener: socket.socket, scheme: str) -> str:
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


async def _bind(settings: ServerSettings) -> list[socket.socket]:
    """Return listening sockets, one for each address that the host name resolves to."""
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
        fix = _FIXES.get(error.errno or 0, "see --listen")
        raise ConfigurationInvalid(f"can't listen on {settings.listen}: {error.strerror or error}; {fix}") from error
    return sockets


class Listener:
    """Accepts connections and sets them up: registers each with `Connections`, then starts HTTP or TLS on it."""

    def __init__(self, sockets: list[socket.socket], connections: Connections, certificate: Certificate | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets = sockets
        self._connections = connections
        self._certificate = certificate
        self._setups: set[asyncio.Task[None]] = set()
        self._rate_limited_log = RateLimitedLog(log)
        for listener in sockets:
            self._loop.add_reader(listener, self._accept, listener)

    def close(self) -> None:
        """Accept no more connections."""
        for listener in self._sockets:
            self._loop.remove_reader(listener)
            listener.close()

    async def wait_closed(self) -> None:
        """Cancel the connections that are still being set up, and wait until they are closed."""
        for task in self._setups:
            task.cancel()
        await asyncio.gather(*self._setups, return_exceptions=True)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPT_BATCH):
            try:
                accepted, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause_accepting(listener, error)
                    return
                continue  # the client disconnected before its connection was accepted
            self._admit(accepted, str(address[0]))

    def _pause_accepting(self, listener: socket.socket, error: OSError) -> None:
        """Stop polling the listener for a while, and close the longest idle connection to free a file descriptor.

        The connection stays in the backlog, so the event loop would report the listener as readable again at once.
        """
        self._rate_limited_log.warning("descriptors_exhausted", reason=error.strerror or str(error))
        self._connections.close_longest_idle()
        self._loop.remove_reader(listener)
        self._loop.call_later(_ACCEPT_PAUSE, self._resume_accepting, listener)

    def _resume_accepting(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            self._loop.add_reader(listener, self._accept, listener)

    def _admit(self, accepted: socket.socket, client: str) -> None:
        connection = self._connections.add(accepted, client)
        if connection is None:
            accepted.close()
            return
        accepted.setblocking(False)
        task = self._loop.create_task(self._set_up(accepted, connection))
        self._setups.add(task)
        task.add_done_callback(self._setups.discard)

    async def _set_up(self, accepted: socket.socket, connection: Connection) -> None:
        try:
            if self._certificate is None:
                await self._loop.connect_accepted_socket(lambda: connection, accepted)
            else:
                await self._start_tls(accepted, connection, self._certificate)
        except OSError as error:  # includes ssl.SSLError
            if self._certificate is not None:
                reason = getattr(error, "reason", None) or str(error) or type(error).__name__
                self._rate_limited_log.info("handshake_failed", client=connection.client, reason=reason)
        finally:
            if not connection.has_transport:  # otherwise connection_lost does this
                self._connections.discard(connection)
                accepted.close()

    async def _start_tls(self, accepted: socket.socket, connection: Connection, certificate: Certificate) -> None:
        """Start TLS when the first byte is that of a handshake; otherwise tell the client to use https.

        No TLS state is allocated for a client that sends nothing.
        """
        await self._wait_until_readable(accepted)
        first = accepted.recv(1, socket.MSG_PEEK)
        if first == _TLS_HANDSHAKE:
            limits = self._connections.limits
            await self._loop.connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=certificate.context,
                ssl_handshake_timeout=limits.head,
                ssl_shutdown_timeout=limits.unread,  # also limits how long unsent bytes are kept
            )
        elif first:
            # Closing a socket with unread bytes sends a reset, and the client might never see the response.
            accepted.recv(_MAX_DISCARDED)
            accepted.send(_TLS_ONLY)

    async def _wait_until_readable(self, accepted: socket.socket) -> None:
        ready = self._loop.create_future()
        self._loop.add_reader(accepted, wake, ready)
        try:
            await ready
        finally:
            self._loop.remove_reader(accepted)
