"""Health of the cache directory: whether it can be written, and if not, why and since when.

While it can't be written, nothing is stored and pulls pass through. It is tried again with exponential back-off.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from mirror.errors import DiskFull, NoSpace, StorageFailed
from mirror.observability.log import RateLimitedLog

_PAUSES = (1.0, 60.0)  # seconds before the next attempt: the first pause, and the longest
log = structlog.get_logger()


class DiskHealth:
    """The health of one cache directory."""

    def __init__(self) -> None:
        self._failure: StorageFailed | None = None
        self._since = self._failed_at = 0.0
        self._pause = _PAUSES[0]
        self._rate_limited_log = RateLimitedLog(log)

    def __str__(self) -> str:
        """Return "ok" or the failure, for messages and /readyz."""
        return "ok" if self._failure is None else f"failing: {self._failure}"

    @property
    def is_writable(self) -> bool:
        """Whether the last attempt to write succeeded."""
        return self._failure is None

    @property
    def is_retry_due(self) -> bool:
        """Whether writing failed, and the pause before the next attempt is over."""
        return self._failure is not None and time.monotonic() >= self._failed_at + self._pause

    def require_writable(self) -> None:
        """Raise StorageFailed if the directory is known to be unwritable.

        DiskFull does not raise: eviction may free enough.
        """
        if self._failure is not None and not isinstance(self._failure, DiskFull):
            raise StorageFailed(str(self._failure)) from None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Note failures of the block, except for a lack of space within max_size and min_free."""
        try:
            yield
        except StorageFailed as error:
            if isinstance(error, DiskFull) or not isinstance(error, NoSpace):
                self.failed(error)
            raise

    def failed(self, error: StorageFailed) -> None:
        """Note that the directory can't be written."""
        now = time.monotonic()
        if self._failure is None:
            self._since = now
        lately = now < self._failed_at + 2 * self._pause
        self._pause = min(2 * self._pause, _PAUSES[1]) if lately else _PAUSES[0]
        self._failed_at = now
        self._failure = error
        self._rate_limited_log.warning("cache_failing", str(error.detail.get("cause", "")), reason=str(error))

    def unreadable(self, error: StorageFailed) -> None:
        """Log that stored content could not be read. It will be fetched again."""
        self._rate_limited_log.warning("cache_unreadable", str(error.detail.get("cause", "")), reason=str(error))

    def mended(self) -> None:
        """Note that the directory can be written again."""
        if self._failure is not None:
            seconds = round(time.monotonic() - self._since)
            self._failure = None
            self._rate_limited_log.info("cache_mended", seconds=seconds)
