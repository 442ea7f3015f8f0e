"""The access log: one event and the request metrics for each answered request."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable

import structlog
from aiohttp import web

from mirror.auth.rules import Caller
from mirror.errors import MirrorError
from mirror.observability.metrics import FIRST_BYTE_BUCKETS, Metrics
from mirror.oci.digest import Digest
from mirror.oci.routes import RequestedRepository, shown

LONGEST_TARGET = 256  # characters of the request target in an event
log = structlog.get_logger()


class AccessLog:
    """Logs and counts answered requests. *upstreams*: the names of all configured upstreams."""

    def __init__(self, metrics: Metrics, upstreams: Iterable[str]) -> None:
        self._requests = metrics.requests
        for upstream in upstreams:  # counted from 0 on, so that Prometheus sees the first increase
            self._requests[upstream].served_bytes = 0
        self._log = log.bind()

    def first_byte(self, started: float, upstream: str) -> None:
        """Count the time until now, just before the head is sent, since *started* (time.perf_counter)."""
        seconds, counts = time.perf_counter() - started, self._requests[upstream]
        counts.first_bytes[bisect_left(FIRST_BYTE_BUCKETS, seconds)] += 1
        counts.first_byte_seconds += seconds

    def served(
        self,
        request: web.BaseRequest,
        caller: Caller,
        kind: str,
        requested: RequestedRepository,
        reference: str,
        digest: Digest,
        outcome: str,
        size: int,
        started: float,
        reason: str | None = None,
    ) -> None:
        """Record a pull that was answered with *size* bytes of content.

        Args:
            outcome: the cache outcome, or "client_disconnected" (before the end) or "aborted" (the mirror had to end
                the response early).
            reason: why the response ended early; None if it is complete.
        """
        upstream = requested.repository.upstream
        counts = self._requests[upstream]
        counts.outcomes[kind, outcome] += 1
        counts.served_bytes += size
        (self._log.warning if outcome == "aborted" else log.info)(
            "pull_served",
            kind=kind,
            method=request.method,
            upstream=upstream,
            repository=requested.repository.name,
            reference=reference,
            digest=digest.text,
            outcome=outcome,
            bytes=size,
            seconds=round(time.perf_counter() - started, 4),
            client=request.remote,
            **({} if caller.user is None else {"user": caller.user}),
            **({} if reason is None else {"reason": reason}),
        )

    def failed(
        self, request: web.BaseRequest, caller: Caller, failure: MirrorError, upstream: str, started: float
    ) -> None:
        """Record a request that was answered with an error; *upstream* is empty if the request names none."""
        self.count("error", failure.code.lower(), upstream)
        (log.warning if failure.status >= 500 else log.info)(
            "pull_failed",
            method=request.method,
            target=shown(request.raw_path, LONGEST_TARGET),
            status=failure.status,
            code=failure.code,
            reason=str(failure),
            seconds=round(time.perf_counter() - started, 4),
            client=request.remote,
            **({} if caller.user is None else {"user": caller.user}),
        )

    def count(self, kind: str, outcome: str, upstream: str = "") -> None:
        """Count an answered request; *upstream* is empty if the request is about no upstream."""
        self._requests[upstream].outcomes[kind, outcome] += 1
