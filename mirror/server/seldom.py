"""Events that anybody can cause at will: told once a minute at most, with the number of those that were not told."""

from __future__ import annotations

import time
from collections.abc import Callable

_PAUSE = 60.0  # seconds


class Seldom:
    """One such event."""

    def __init__(self, tell: Callable[..., object], event: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._event = event
        self._clock = clock
        self._told: float | None = None
        self._untold = 0

    def __call__(self, **facts: str | int) -> None:
        """It happened once more."""
        now = self._clock()
        if self._told is not None and now - self._told < _PAUSE:
            self._untold += 1
            return
        self._tell(self._event, **facts, **({"untold": self._untold} if self._untold else {}))
        self._told, self._untold = now, 0
