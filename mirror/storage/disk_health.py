"""The condition of the cache directory: whether it can be written, and if not, why and since when.

While it can't, nothing is stored and pulls pass through; now and then it is tried again, less and less often.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from mirror.errors import DiskFull, NoSpace, StorageFailed
from mirror.observability.log import RateLimitedLog

_PAUSES = (1.0, 60.0)  # seconds before it is tried again: the first, and the longest
log = structlog.get_logger()


class DiskHealth:
    """What is known of one cache directory."""

    def __init__(self) -> None:
        self._failure: StorageFailed | None = None
        self._since = self._failed_at = 0.0
        self._pause = _PAUSES[0]
        self._rate_limited_log = RateLimitedLog(log)

    def __str__(self) -> str:
        """For people: "ok", or what fails."""
        return "ok" if self._failure is None else f"failing: {self._failure}"

    @property
    def is_writable(self) -> bool:
        """Whether it could be written when that was last tried."""
        return self._failure is None

    @property
    def is_to_be_tried(self) -> bool:
        """Whether it failed, and long enough ago to see whether it still does."""
        return self._failure is not None and time.monotonic() >= self._failed_at + self._pause

    def check(self) -> None:
        """Lets pass who wants to write. A full disk stops nobody here: what fits can be told, and made to fit.

        Raises:
            StorageFailed: it would fail.
        """
        if self._failure is not None and not isinstance(self._failure, DiskFull):
            raise StorageFailed(str(self._failure)) from None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Notes what fails while something is written, but for room that max_size and min_free do not leave."""
        try:
            yield
        except StorageFailed as error:
            if isinstance(error, DiskFull) or not isinstance(error, NoSpace):
                self.failed(error)
            raise

    def failed(self, error: StorageFailed) -> None:
        now = time.monotonic()
        if self._failure is None:
            self._since = now
        lately = now < self._failed_at + 2 * self._pause
        self._pause = min(2 * self._pause, _PAUSES[1]) if lately else _PAUSES[0]
        self._failed_at = now
        self._failure = error
        self._rate_limited_log.warning("cache_failing", str(error.detail.get("cause", "")), reason=str(error))

    def unreadable(self, error: StorageFailed) -> None:
        """Stored content could not be read: it will be fetched again."""
        self._rate_limited_log.warning("cache_unreadable", str(error.detail.get("cause", "")), reason=str(error))

    def mended(self) -> None:
        """It can be written again."""
        if self._failure is not None:
            seconds = round(time.monotonic() - self._since)
            self._failure = None
            self._rate_limited_log.info("cache_mended", seconds=seconds)
