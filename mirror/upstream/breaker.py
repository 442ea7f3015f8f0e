"""The breaker: an upstream that just failed is not asked again at once, so that clients hear it in no time."""

from __future__ import annotations

import time
from collections.abc import Callable

from mirror.errors import UpstreamUnavailable

_TOLERATED = 2  # failures in a row: one may be a blip
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
_LONGEST_TOLD = 60.0  # seconds: an outage may be over before its Retry-After is


class Breaker:
    """Counts failures in a row, and closes the way for a while when there are too many.

    After the pause one request may try; while none succeeds, each pause is twice the one before.
    """

    def __init__(self, upstream: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._upstream = upstream
        self._clock = clock
        self._failures = 0
        self._pause = _FIRST_PAUSE
        self._open_until = 0.0
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether upstream counts as down."""
        return self._failures >= _TOLERATED

    @property
    def admits(self) -> bool:
        """Whether a request would pass now."""
        return not self.is_open or self._clock() >= self._open_until

    def admit(self) -> None:
        """Lets a request pass, or not.

        Raises:
            UpstreamUnavailable: upstream is down, and it is not yet time to try.
        """
        if not self.is_open:
            return
        left = self._open_until - self._clock()
        if left > 0:
            raise UpstreamUnavailable(
                f"{self._upstream} failed {self._failures} times in a row; it is tried again in {left:.1f} s",
                retry_after=int(left) + 1,
                upstream=self._upstream,
            )
        self._probing = True
        self._open_until = self._clock() + self._pause  # this request is the probe; others wait for what it finds

    def succeeded(self) -> None:
        self._failures = 0
        self._pause = _FIRST_PAUSE
        self._probing = False

    def failed(self, *, pause: float | None = None) -> None:
        """A request failed. One that began before the breaker opened says nothing new.

        Args:
            pause: seconds for which upstream itself asked to be left alone. Then once is enough.
        """
        self._failures += 1
        if pause:
            self._failures = max(self._failures, _TOLERATED)
            self._probing = False
            self._open_until = max(self._open_until, self._clock() + min(pause, _LONGEST_TOLD))
        elif self._failures == _TOLERATED:
            self._open_until = self._clock() + self._pause
        elif self._probing:
            self._probing = False
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self._open_until = self._clock() + self._pause
