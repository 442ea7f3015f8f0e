"""Port check: whether the listening address is free, used by a running mirror, or used by another program."""

from __future__ import annotations

import errno
import socket

from mirror.config import Settings
from mirror.doctor.finding import Finding, ok, problem, warning
from mirror.upstream.mirror_probe import probe_mirror

_SUBJECT = "port"
_SECONDS = 3.0


async def check_port(settings: Settings) -> Finding:
    """Check whether a mirror listens on the configured address, or could."""
    server = settings.server
    try:
        _try_to_listen(server.host, server.port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return await _check_listener(settings)
        return _cannot_listen(server.listen, server.port, error)
    return ok(_SUBJECT, f"{server.listen} is free; no mirror is running there (mirror serve starts one)")


def _try_to_listen(host: str, port: int) -> None:
    """Listen on the address and close the socket again.

    Raises:
        OSError: if the address can't be listened on.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1)


def _cannot_listen(listen: str, port: int, error: OSError) -> Finding:
    message = f"{listen} can't be listened on: {error.strerror or error}"
    if error.errno == errno.EACCES:
        fix = f"port {port} requires root or CAP_NET_BIND_SERVICE: set server.listen to a port above 1023"
        return problem(_SUBJECT, message, fix)
    return problem(_SUBJECT, message, "set server.listen to an address of this machine, such as 127.0.0.1:5000")


async def _check_listener(settings: Settings) -> Finding:
    server = settings.server
    found = await probe_mirror(settings.server.url, seconds=_SECONDS)
    if found is None:
        fix = f"stop that program (ss -ltnp 'sport = :{server.port}' names it), or set server.listen to another port"
        return problem(_SUBJECT, f"{server.listen} is used by a program that is not a mirror", fix)
    if found.version is None:
        return ok(_SUBJECT, f"a mirror answers at {server.url}; it shows its version only to users who log in")
    message = f"a mirror answers at {server.url}: version {found.version}, ready, its cache is {found.cache}"
    if found.cache != "ok":
        return warning(
            _SUBJECT, message, "it serves cached content and stores nothing: see the findings about the disk"
        )
    return ok(_SUBJECT, message)
