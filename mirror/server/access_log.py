"""The record of answered requests: one event and a few figures for each."""

from __future__ import annotations

import time

import structlog
from aiohttp import web

from mirror.auth.rules import Caller
from mirror.errors import MirrorError
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.oci.routes import RequestedRepository, shown

LONGEST_TARGET = 256  # characters of it in an event
log = structlog.get_logger()


class AccessLog:
    """Writes down what became of requests, where that is known."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._log = log.bind()

    def first_byte(self, started: float) -> None:
        """The head of an answer to a request that came at *started* (time.perf_counter) is leaving now."""
        self._metrics.observe_first_byte(time.perf_counter() - started)

    def served(
        self,
        request: web.BaseRequest,
        caller: Caller,
        kind: str,
        asked: RequestedRepository,
        reference: str,
        digest: Digest,
        outcome: str,
        size: int,
        started: float,
        reason: str | None = None,
    ) -> None:
        """A pull was answered with *size* bytes of content.

        Args:
            outcome: how, or "left" (the client went before the end) or "cut" (the mirror had to end it).
            reason: why it ended before its end; None where it did not.
        """
        self.count(kind, outcome)
        self._metrics.served_bytes += size
        (self._log.warning if outcome == "cut" else log.info)(
            "pull_served",
            kind=kind,
            method=request.method,
            upstream=asked.repository.upstream,
            repository=asked.repository.name,
            reference=reference,
            digest=digest.text,
            outcome=outcome,
            bytes=size,
            seconds=round(time.perf_counter() - started, 4),
            client=request.remote,
            **({} if caller.user is None else {"user": caller.user}),
            **({} if reason is None else {"reason": reason}),
        )

    def failed(self, request: web.BaseRequest, caller: Caller, failure: MirrorError, started: float) -> None:
        """A request was answered with an error."""
        self.count("error", failure.code.lower())
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

    def count(self, kind: str, outcome: str) -> None:
        """One more answer of that kind, with that outcome."""
        self._metrics.count_request(kind, outcome)
