"""File descriptors: the process limit (RLIMIT_NOFILE), and how many connections fit into it."""

from __future__ import annotations

import resource

import structlog

_MAX_LIMIT = 2**20  # more than any mirror needs; child processes pay for a limit a thousand times as high
_RESERVED = 256  # for blobs, the fact database, upstream connections and the log
_PER_CONNECTION = 2  # its socket, and while it is answered a second file descriptor of the socket, or a file
_MIN_CONNECTIONS = 8
log = structlog.get_logger()


def raise_limit() -> int:
    """Raise the soft limit on open file descriptors to the hard limit, at most 2**20; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_LIMIT if hard == resource.RLIM_INFINITY else min(hard, _MAX_LIMIT)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return _MAX_LIMIT if soft == resource.RLIM_INFINITY else soft


def affordable_connections(connections: int, descriptors: int) -> int:
    """Return *connections*, or the smaller number that *descriptors* allow; log a warning in that case."""
    possible = max(_MIN_CONNECTIONS, (descriptors - min(_RESERVED, descriptors // 2)) // _PER_CONNECTION)
    if possible >= connections:
        return connections
    log.warning(
        "connections_limited",
        wanted=connections,
        possible=possible,
        reason=f"the process may open only {descriptors} file descriptors, so at most {possible} connections are "
        f"accepted: raise the limit (ulimit -n, LimitNOFILE=)",
    )
    return possible
