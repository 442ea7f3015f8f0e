"""Circuit breaker: after repeated failures of an upstream, requests fail at once instead of waiting for it."""

from __future__ import annotations

import time
from collections.abc import Callable

from mirror.errors import UpstreamUnavailable

_MAX_FAILURES = 2  # in a row: a single failure may be a blip
_MIN_PAUSE = 1.0  # seconds
_MAX_PAUSE = 30.0  # seconds
_MAX_RETRY_AFTER = 60.0  # seconds: an outage may end before its Retry-After does


class CircuitBreaker:
    """Counter of consecutive failures, which rejects requests for a pause if there are too many.

    After the pause, one request is sent as a probe. Each failed probe doubles the next pause.
    """

    def __init__(self, upstream: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._upstream = upstream
        self._clock = clock
        self._failures = 0
        self._pause = _MIN_PAUSE
        self._open_until = 0.0
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether the upstream counts as down."""
        return self._failures >= _MAX_FAILURES

    @property
    def admits(self) -> bool:
        """Whether `require_closed` would return now. Reading this does not start a probe."""
        return not self.is_open or self._clock() >= self._open_until

    def require_closed(self) -> None:
        """Raise UpstreamUnavailable if the circuit is open. The first call after the pause returns: it is the probe.

        Raises:
            UpstreamUnavailable: if the upstream is down and the next probe is not due yet.
        """
        if not self.is_open:
            return
        left = self._open_until - self._clock()
        if left > 0:
            raise UpstreamUnavailable(
                f"{self._upstream} failed {self._failures} times in a row; the next attempt is in {left:.1f} s",
                retry_after=int(left) + 1,
                upstream=self._upstream,
            )
        self._probing = True
        self._open_until = self._clock() + self._pause  # other requests fail until the result of this probe

    def succeeded(self) -> None:
        """Record a success: close the circuit and reset the pause."""
        self._failures = 0
        self._pause = _MIN_PAUSE
        self._probing = False

    def failed(self, *, pause: float | None = None) -> None:
        """Record a failure. Failures of requests sent before the circuit opened do not extend the pause.

        Args:
            pause: seconds of a Retry-After that the upstream sent. One such failure opens the circuit.
        """
        self._failures += 1
        if pause:
            self._failures = max(self._failures, _MAX_FAILURES)
            self._probing = False
            self._open_until = max(self._open_until, self._clock() + min(pause, _MAX_RETRY_AFTER))
        elif self._failures == _MAX_FAILURES:
            self._open_until = self._clock() + self._pause
        elif self._probing:
            self._probing = False
            self._pause = min(2 * self._pause, _MAX_PAUSE)
            self._open_until = self._clock() + self._pause
