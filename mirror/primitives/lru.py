"""A mapping that forgets: the values used last, up to a total weight."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class LruCache(Generic[_Key, _Value]):
    """Keeps what was used last. The weight of a value is 1, or what *weigh* says."""

    def __init__(self, most: int, *, weigh: Callable[[_Value], int] = lambda _: 1) -> None:
        self._most = most
        self._weigh = weigh
        self._values: dict[_Key, _Value] = {}  # in the order of use, as far as there was a reason to note it
        self._weight = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: _Key) -> _Value | None:
        """The value of *key*; None where it has none, or had one too long ago."""
        value = self._values.get(key)
        if value is not None and self._weight > self._most // 2:  # half empty, nothing is about to go
            del self._values[key]
            self._values[key] = value
        return value

    def keep(self, key: _Key, value: _Value) -> None:
        self.drop(key)
        self._values[key] = value
        self._weight += self._weigh(value)
        while self._weight > self._most and self._values:
            self.drop(next(iter(self._values)))

    def drop(self, key: _Key) -> None:
        value = self._values.pop(key, None)
        if value is not None:
            self._weight -= self._weigh(value)
