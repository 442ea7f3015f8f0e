"""The allowance: how many pulls an upstream still grants, as it last said, and how long tags hold because of that."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from mirror.config import TagSettings
from mirror.observability.metrics import Metrics
from mirror.oci.ratelimit_headers import RateLimitHeader

_UNTOLD = 3600.0  # seconds that it holds where upstream tells no window
_LONGEST = 86_400.0

log = structlog.get_logger()


def is_low(left: int, limit: int | None) -> bool:
    """Return whether less than a tenth of the pulls are left. *limit* is None if unknown: then 0 left is low."""
    return left <= 0 if limit is None else left * 10 < limit


def fresh_for(usually: float, when_low: float, *, low: bool) -> float:
    """Return how many seconds a tag stays fresh: longer while few pulls are left, and never shorter."""
    return max(usually, when_low) if low else usually


class PullQuota:
    """What upstream said of its pull limit; forgotten when the window that it named is over.

    Attributes:
        fresh_for: seconds that a tag holds without being asked for again. Read with every hit, so a plain attribute.
    """

    def __init__(self, upstream: str, settings: TagSettings, metrics: Metrics) -> None:
        self._upstream = upstream
        self._settings = settings
        self._metrics = metrics
        self._is_low = False
        self._end: asyncio.TimerHandle | None = None
        self.fresh_for = settings.fresh_for

    def told(self, headers: Mapping[str, str]) -> None:
        """Takes note of what an answer says, if it says anything: registries without a limit are silent on it."""
        left, limit = (
            RateLimitHeader.parse(headers.get("RateLimit-Remaining")),
            RateLimitHeader.parse(headers.get("RateLimit-Limit")),
        )
        if left is None:
            return
        self.forget()
        self._metrics.pulls[self._upstream] = left.pulls, None if limit is None else limit.pulls
        self._turn(low=is_low(left.pulls, None if limit is None else limit.pulls))
        window = _UNTOLD if left.window is None else left.window
        self._end = asyncio.get_running_loop().call_later(min(window, _LONGEST), self._over)

    def forget(self) -> None:
        """Nothing is known any more."""
        if self._end is not None:
            self._end.cancel()
            self._end = None
        self._metrics.pulls.pop(self._upstream, None)

    def _over(self) -> None:
        self.forget()
        self._turn(low=False)

    def _turn(self, *, low: bool) -> None:
        self.fresh_for = fresh_for(self._settings.fresh_for, self._settings.fresh_when_low, low=low)
        if low != self._is_low:
            self._is_low = low
            event = "few_pulls_left" if low else "enough_pulls_left"
            log.info(event, upstream=self._upstream, tags_fresh_for=self.fresh_for)
