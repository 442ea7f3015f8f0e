"""Pending deletions: digests of removed content whose rows the fact database still has."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from itertools import islice


class PendingDeletions:
    """The digests whose rows are to be deleted, each with the order of its deletion among all changes.

    The event loop adds digests, the fact thread deletes their rows. Only one deletion runs at a time.
    """

    def __init__(self) -> None:
        self._orders: dict[str, int] = {}
        self._lock = threading.Lock()
        self._is_running = False

    def __bool__(self) -> bool:
        return bool(self._orders)

    def has_key(self, key: str) -> bool:
        """Return whether the row *key* is about one of the digests: a digest ends such a key."""
        return bool(self._orders) and key.rpartition(" ")[2] in self._orders

    def order(self, tag: str | None) -> int | None:
        """Return the order of the deletion of a digest; None if it is not pending."""
        return None if tag is None else self._orders.get(tag)

    def add(self, tags: Iterable[str], order: int) -> None:
        with self._lock:
            self._orders |= dict.fromkeys(tags, order)

    def some(self, count: int | None) -> dict[str, int]:
        """Return up to *count* of them (None: all), with their orders."""
        with self._lock:
            return dict(islice(self._orders.items(), count))

    def remove(self, deleted: Mapping[str, int]) -> None:
        """Remove digests whose rows were deleted, unless a later deletion was added meanwhile."""
        with self._lock:
            for tag, order in deleted.items():
                if self._orders.get(tag) == order:
                    del self._orders[tag]

    def clear(self) -> None:
        with self._lock:
            self._orders.clear()

    def begin(self) -> bool:
        """Return whether a deletion has to be started now: some are pending, and none runs."""
        with self._lock:
            begins = bool(self._orders) and not self._is_running
            self._is_running |= begins
            return begins

    def proceed(self) -> bool:
        """Return whether the running deletion has more to do. If not, it has ended."""
        with self._lock:
            self._is_running = bool(self._orders)
            return self._is_running

    def end(self) -> None:
        """End the running deletion, because it failed."""
        with self._lock:
            self._is_running = False
