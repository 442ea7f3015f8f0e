"""Rate limit on failed logins (password guessing), by client address."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mirror.errors import Denied, TooManyLogins
from mirror.primitives.lru import LruCache

_MAX_FAILURES = 60  # per address and window
_WINDOW = 60.0  # seconds
_MAX_ADDRESSES = 65_536


@dataclass(frozen=True, slots=True)
class _Failures:
    count: int
    since: float


class FailedLoginLimiter:
    """Keeps a client from using the mirror to guess an upstream's passwords."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = LruCache[str, _Failures](_MAX_ADDRESSES)

    @contextmanager
    def attempt(self, address: str) -> Iterator[None]:
        """Check a login from *address* in the block, and count it as failed if the block raises Denied.

        Raises:
            TooManyLogins: if too many logins from *address* failed within the last minute. The block does not run.
        """
        failures = self._recent(address)
        if failures.count >= _MAX_FAILURES:
            left = max(1, round(failures.since + _WINDOW - self._clock()))
            raise TooManyLogins(
                f"{_MAX_FAILURES} logins from {address} failed within a minute: try again in {left} s",
                retry_after=left,
            )
        try:
            yield
        except Denied:
            failures = self._recent(address)
            self._failures.set(address, _Failures(failures.count + 1, failures.since))
            raise

    def _recent(self, address: str) -> _Failures:
        failures = self._failures.get(address)
        now = self._clock()
        return failures if failures is not None and now < failures.since + _WINDOW else _Failures(0, now)
