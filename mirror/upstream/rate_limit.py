"""Rate limit: after a 429 (Too Many Requests), requests fail locally until the upstream's Retry-After is over.

`endpoint` and `credentials/bearer_tokens` recognize the 429; `server/response` passes it on to clients.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from mirror.errors import UpstreamThrottled

_DEFAULT_PAUSE = 1.0  # seconds, for a 429 without Retry-After
_MAX_PAUSE = 60.0  # seconds: a new login or another address may lift the limit before Retry-After is over


class RateLimit:
    """Rate limit state of one endpoint. It covers manifests and tokens only: upstreams do not limit blobs."""

    def __init__(
        self, endpoint: str, upstream: str | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Create the state for *endpoint*, its name in messages.

        Args:
            upstream: the upstream's name in the configuration, if it differs from *endpoint*.
        """
        self._endpoint = endpoint
        self._upstream = upstream or endpoint
        self._clock = clock
        self._until = 0.0

    def record_429(self, retry_after: int | None) -> None:
        """Record a 429 response and the seconds of its Retry-After (None if absent)."""
        self._until = self._clock() + min(_DEFAULT_PAUSE if retry_after is None else retry_after, _MAX_PAUSE)

    def require_allowed(self, *, login_advice: str | None = None) -> None:
        """Raise UpstreamThrottled if a request now would only receive another 429.

        Args:
            login_advice: how to configure a login that may have a higher limit; None if there is nothing to configure.

        Raises:
            UpstreamThrottled: if the limit is still reached.
        """
        left = self._until - self._clock()
        if left > 0:
            raise self.throttled(int(left) + 1, login_advice=login_advice)

    def throttled(
        self, retry_after: int | None, *, subject: str | None = None, login_advice: str | None = None
    ) -> UpstreamThrottled:
        """Return the error of a request that the limit refuses.

        Args:
            retry_after: seconds after which a retry makes sense; None if unknown.
            subject: the content for which the upstream answered 429; None if it was not asked.
        """
        answered = "" if subject is None else f" (429 for {subject})"
        wait = "try again later" if retry_after is None else f"wait {retry_after} s"
        advice = "" if login_advice is None else f", or {login_advice}"
        return UpstreamThrottled(
            f"the rate limit of {self._endpoint} is reached{answered}: {wait}{advice}",
            retry_after=retry_after,
            upstream=self._upstream,
        )


def retry_after(header: str | None, *, now: datetime | None = None) -> int | None:
    """Parse a Retry-After header, a number or a date (RFC 9110, 10.2.3), to seconds from *now*; None if invalid."""
    text = (header or "").strip()
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return int(text)
    try:
        date = parsedate_to_datetime(text)
        left = date - (now or datetime.now(UTC)) if date.tzinfo else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return None if left is None else max(0, round(left.total_seconds()))
