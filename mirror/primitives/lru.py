"""LRU cache for values in memory: bounded by weight and time. The LRU order of blobs is in `storage/lru_inventory`."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class LruCache(Generic[_Key, _Value]):
    """A mapping that evicts the least recently used values. Every operation takes constant time."""

    def __init__(
        self,
        max: int,  # noqa: A002 - the usual name for an LRU cache
        *,
        ttl: float | None = None,
        weigh: Callable[[_Value], int] = lambda _: 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create an empty cache.

        Args:
            max: the total weight of all values. A value that is heavier is not kept.
            ttl: seconds after which a value expires; None for never. `set` can override it.
            weigh: returns the weight of a value, which must not change while it is in the cache.
        """
        self._max = max
        self._ttl = ttl
        self._weigh = weigh
        self._clock = clock
        # A dict is no LRU: `next(iter(…))` skips over every deleted entry, which took up to 180 ms for one call.
        self._values: OrderedDict[_Key, _Value] = OrderedDict()
        self._expiry: dict[_Key, float] = {}
        self._weight = 0

    def __len__(self) -> int:
        """Return the number of values, expired ones included until they are read or evicted."""
        return len(self._values)

    def __contains__(self, key: _Key) -> bool:
        return self.get(key) is not None

    @property
    def weight(self) -> int:
        """The total weight of all values."""
        return self._weight

    def get(self, key: _Key) -> _Value | None:
        """Return the value of *key* and mark it as used; None if it is absent or expired."""
        value = self._values.get(key)
        if value is None:
            return None
        if self._expiry and (expiry := self._expiry.get(key)) is not None and expiry <= self._clock():
            self.delete(key)
            return None
        self._values.move_to_end(key)
        return value

    def values(self) -> Iterable[_Value]:
        """Return all values, expired ones included; this is no use of them."""
        return self._values.values()

    def set(self, key: _Key, value: _Value, *, ttl: float | None = None) -> None:
        """Store *value*, and evict the least recently used values until the total weight fits.

        A value that is heavier than the limit evicts only the earlier value of *key*.
        """
        self.delete(key)
        weight = self._weigh(value)
        if weight > self._max:
            return
        self._values[key] = value
        self._weight += weight
        seconds = self._ttl if ttl is None else ttl
        if seconds is not None:
            self._expiry[key] = self._clock() + seconds
        while self._weight > self._max:
            self.delete(next(iter(self._values)))

    def delete(self, key: _Key) -> bool:
        """Remove *key*. Return whether it was present."""
        value = self._values.pop(key, None)
        if value is None:
            return False
        self._expiry.pop(key, None)
        self._weight -= self._weigh(value)
        return True

    def clear(self) -> None:
        """Remove every value."""
        self._values.clear()
        self._expiry.clear()
        self._weight = 0
