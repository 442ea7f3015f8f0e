"""Rate limit: after a 429 (Too Many Requests), requests fail locally until the upstream's Retry-After is over.

`endpoint` and `credentials/bearer_tokens` recognise the 429; `server/response` passes it on to clients.
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

    def require_allowed(self) -> None:
        """Raise UpstreamThrottled if a request now would only receive another 429.

        Raises:
            UpstreamThrottled: if the limit is still reached.
        """
        left = self._until - self._clock()
        if left > 0:
            raise UpstreamThrottled(
                f"{self._endpoint}'s rate limit is reached: wait, or set username and password_file in "
                f'[upstreams."{self._upstream}"]',
                retry_after=int(left) + 1,
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
