"""Guesses: logins that turned out wrong, by the address that they came from. Too many, and no more are passed on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mirror.errors import Denied, TooManyLogins
from mirror.primitives.lru import LruCache

_MOST = 60  # wrong ones within so much time
_WITHIN = 60.0  # seconds
_ADDRESSES = 65_536


@dataclass(frozen=True, slots=True)
class _Wrong:
    count: int
    since: float


class FailedLoginLimiter:
    """Keeps an upstream from being asked for one password after another in the mirror's name."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong = LruCache[str, _Wrong](_ADDRESSES)

    @contextmanager
    def guess(self, address: str) -> Iterator[None]:
        """A login from *address* is tried in the block, which raises Denied where it is wrong.

        Raises:
            TooManyLogins: too many were wrong lately; this one is not to be tried.
        """
        wrong = self._lately(address)
        if wrong.count >= _MOST:
            left = max(1, round(wrong.since + _WITHIN - self._clock()))
            raise TooManyLogins(
                f"{_MOST} logins from {address} were wrong within a minute: the next is tried in {left} s",
                retry_after=left,
            )
        try:
            yield
        except Denied:
            wrong = self._lately(address)
            self._wrong.set(address, _Wrong(wrong.count + 1, wrong.since))
            raise

    def _lately(self, address: str) -> _Wrong:
        wrong = self._wrong.get(address)
        now = self._clock()
        return wrong if wrong is not None and now < wrong.since + _WITHIN else _Wrong(0, now)
