"""The port: free, or a mirror's, or somebody else's."""

from __future__ import annotations

import errno
import socket

from mirror.config import Settings
from mirror.doctor.finding import Finding, ok, problem, warning
from mirror.upstream.mirror_probe import probe_mirror

_SUBJECT = "port"
_SECONDS = 3.0


async def examine_port(settings: Settings) -> Finding:
    """Whether the mirror listens there, or could."""
    server = settings.server
    try:
        _try(server.host, server.port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return await _taken(settings)
        return _unusable(server.listen, server.port, error)
    return ok(_SUBJECT, f"{server.listen} is free; no mirror is running there (mirror serve starts one)")


def _try(host: str, port: int) -> None:
    """Takes the address for a moment.

    Raises:
        OSError: it can't be had.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        taken.listen(1)


def _unusable(listen: str, port: int, error: OSError) -> Finding:
    says = f"{listen} can't be listened on: {error.strerror or error}"
    if error.errno == errno.EACCES:
        cure = f"port {port} wants root or CAP_NET_BIND_SERVICE: set server.listen to a port above 1023"
        return problem(_SUBJECT, says, cure)
    return problem(_SUBJECT, says, "set server.listen to an address of this machine, such as 127.0.0.1:5000")


async def _taken(settings: Settings) -> Finding:
    server = settings.server
    found = await probe_mirror(settings.server.url, seconds=_SECONDS)
    if found is None:
        cure = f"end that program (ss -ltnp 'sport = :{server.port}' names it), or set server.listen to another port"
        return problem(_SUBJECT, f"{server.listen} is taken, and it is no mirror that answers there", cure)
    if found.version is None:
        return ok(_SUBJECT, f"a mirror answers at {server.url}, and tells more to those who log in")
    says = f"a mirror answers at {server.url}: version {found.version}, ready, its cache is {found.cache}"
    if found.cache != "ok":
        return warning(_SUBJECT, says, "it serves what it has and stores nothing: see what is said of the disk")
    return ok(_SUBJECT, says)
