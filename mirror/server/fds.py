"""Descriptors: how many there may be, and how many connections that is enough for."""

from __future__ import annotations

import resource

import structlog

_PLENTY = 2**20  # more than any mirror needs; where a system allows a thousand times that, children pay for it
_OWN = 256  # for blobs, the ledger, upstreams and the log, beside what clients take
_EACH = 2  # the connection, and the socket's second descriptor or a file while it is answered
_LEAST = 8
log = structlog.get_logger()


def raise_limit() -> int:
    """Raises the process' limit of open descriptors as far as it may, and returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _PLENTY if hard == resource.RLIM_INFINITY else min(hard, _PLENTY)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return _PLENTY if soft == resource.RLIM_INFINITY else soft


def affordable_connections(connections: int, descriptors: int) -> int:
    """How many of the wanted *connections* may be had with so many *descriptors*; says so where it is fewer."""
    most = max(_LEAST, (descriptors - min(_OWN, descriptors // 2)) // _EACH)
    if most >= connections:
        return connections
    log.warning(
        "connections_limited",
        wanted=connections,
        possible=most,
        reason=f"only {descriptors} descriptors are allowed; raise the limit (ulimit -n, LimitNOFILE=)",
    )
    return most
