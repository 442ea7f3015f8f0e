"""The throttle: after a 429, manifests are not asked for again before upstream wants them to be."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from mirror.errors import UpstreamThrottled

_UNTOLD = 1.0  # seconds to keep still where upstream names none
_LONGEST = 60.0  # seconds: a limit may be lifted (credentials, another address) before Retry-After is over


class RateLimit:
    """Keeps the mirror from hammering an upstream whose limit is reached. Blobs are not limited, and go on."""

    def __init__(
        self, endpoint: str, upstream: str | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """*endpoint* is what messages call it, *upstream* where it is configured, if that is something else."""
        self._endpoint = endpoint
        self._upstream = upstream or endpoint
        self._clock = clock
        self._until = 0.0

    def told(self, seconds: int | None) -> None:
        """Takes note of a 429, and of its Retry-After in seconds (None for none)."""
        self._until = self._clock() + min(_UNTOLD if seconds is None else seconds, _LONGEST)

    def admit(self) -> None:
        """Lets a request pass, or not.

        Raises:
            UpstreamThrottled: upstream would only say 429 again.
        """
        left = self._until - self._clock()
        if left > 0:
            raise UpstreamThrottled(
                f"{self._endpoint}'s limit is reached: wait, or set username and password_file in "
                f'[upstreams."{self._upstream}"]',
                retry_after=int(left) + 1,
                upstream=self._upstream,
            )


def retry_after(header: str | None, *, now: datetime | None = None) -> int | None:
    """Seconds that a Retry-After header names, as a number or a date (RFC 9110, 10.2.3); None for no such value."""
    text = (header or "").strip()
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return int(text)
    try:
        date = parsedate_to_datetime(text)
        left = date - (now or datetime.now(UTC)) if date.tzinfo else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return None if left is None else max(0, round(left.total_seconds()))
