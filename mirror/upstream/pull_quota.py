"""Pull quota: how many pulls an upstream still allows (RateLimit-Remaining), and how long tags then stay fresh."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from mirror.config import TagSettings
from mirror.observability.metrics import Metrics
from mirror.oci.ratelimit_headers import RateLimitHeader

_DEFAULT_WINDOW = 3600.0  # seconds, for a RateLimit-Remaining without a window
_MAX_WINDOW = 86_400.0  # seconds

log = structlog.get_logger()


def is_low(left: int, limit: int | None) -> bool:
    """Return whether less than a tenth of the pulls are left. *limit* is None if unknown: then 0 left is low."""
    return left <= 0 if limit is None else left * 10 < limit


def fresh_for(usually: float, when_low: float, *, low: bool) -> float:
    """Return how many seconds a tag stays fresh: longer while few pulls are left, and never shorter."""
    return max(usually, when_low) if low else usually


class PullQuota:
    """Last known pull quota of one upstream. It expires at the end of the window that the upstream announced.

    Attributes:
        fresh_for: seconds for which a tag is fresh. A plain attribute, because every hit reads it.
    """

    def __init__(self, upstream: str, settings: TagSettings, metrics: Metrics) -> None:
        self._upstream = upstream
        self._settings = settings
        self._metrics = metrics
        self._is_low = False
        self._expiry: asyncio.TimerHandle | None = None
        self.fresh_for = settings.fresh_for

    def update(self, headers: Mapping[str, str]) -> None:
        """Read the quota from the headers of a response. Ignore a response without it: the registry has no limit."""
        left, limit = (
            RateLimitHeader.parse(headers.get("RateLimit-Remaining")),
            RateLimitHeader.parse(headers.get("RateLimit-Limit")),
        )
        if left is None:
            return
        self.forget()
        self._metrics.pulls[self._upstream] = left.pulls, None if limit is None else limit.pulls
        self._set_low(low=is_low(left.pulls, None if limit is None else limit.pulls))
        window = _DEFAULT_WINDOW if left.window is None else left.window
        self._expiry = asyncio.get_running_loop().call_later(min(window, _MAX_WINDOW), self._expire)

    def forget(self) -> None:
        """Discard the known quota and its metric."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        self._metrics.pulls.pop(self._upstream, None)

    def _expire(self) -> None:
        self.forget()
        self._set_low(low=False)

    def _set_low(self, *, low: bool) -> None:
        self.fresh_for = fresh_for(self._settings.fresh_for, self._settings.fresh_when_low, low=low)
        if low != self._is_low:
            self._is_low = low
            event = "pull_quota_low" if low else "pull_quota_normal"
            log.info(event, upstream=self._upstream, tags_fresh_for=self.fresh_for)
