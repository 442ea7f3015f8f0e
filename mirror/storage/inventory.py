"""The inventory: which blobs are stored, how much room they take, who holds them, and when each was last used.

In memory, and without I/O. Its law: `occupied` is the sum of what is stored and what is reserved, always; and the
order of `oldest_first` is the order of last use.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from mirror.oci.digest import Digest
from mirror.storage.eviction import StoredBlob


@dataclass(slots=True)
class _Entry:
    size: int
    used: float


class Inventory:
    """What one store holds.

    Attributes:
        changed: whether last uses changed since somebody set this to False.
    """

    def __init__(self) -> None:
        self.changed = False
        self._hidden: set[Digest] = set()
        self._entries: dict[Digest, _Entry] = {}  # in the order of last use
        self._just_used: dict[Digest, float] = {}  # in the order of use, not yet in the entries' order
        self._holders: Counter[Digest] = Counter()
        self._stored = 0
        self._reserved = 0

    @property
    def occupied(self) -> int:
        """Bytes that are stored, and bytes that room was made for."""
        return self._stored + self._reserved

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, digest: object) -> bool:
        return digest in self._entries and digest not in self._hidden

    def size(self, digest: Digest) -> int | None:
        entry = self._entries.get(digest)
        return None if entry is None or digest in self._hidden else entry.size

    def hide(self, digest: Digest) -> None:
        """Treats a blob that can't be read as not there, though it takes its room."""
        self._hidden.add(digest)

    def show_hidden(self, *, but: AbstractSet[Digest] = frozenset()) -> None:
        """Treats the blobs that could not be read as there again, all *but* some."""
        self._hidden &= but

    def load(self, sizes: Mapping[Digest, tuple[int, float]], *, since: float = math.inf) -> None:
        """Takes over what was found on the disk: bytes and last use of each blob.

        What was known before is forgotten, but for what was used *since* the disk was looked at.
        """
        found = {digest: _Entry(size, used) for digest, (size, used) in sizes.items()}
        found.update((digest, entry) for digest, entry in self._entries.items() if entry.used >= since)
        self._entries = dict(sorted(found.items(), key=lambda item: item[1].used))
        self._stored = sum(entry.size for entry in found.values())
        self._hidden.clear()

    def add(self, digest: Digest, size: int, *, now: float) -> None:
        """Enters a blob that was just committed, as the last one used."""
        self.remove(digest)
        self._entries[digest] = _Entry(size, now)
        self._stored += size
        self.changed = True

    def remove(self, digest: Digest) -> None:
        """Strikes a blob out; nothing happens if it isn't there."""
        entry = self._entries.pop(digest, None)
        if entry is not None:
            self._stored -= entry.size
            self._hidden.discard(digest)
            self.changed = True

    def reserve(self, size: int) -> None:
        """Counts room for content that is to arrive; negative to give it back."""
        self._reserved += size

    def hold(self, digest: Digest) -> None:
        self._holders[digest] += 1

    def release(self, digest: Digest) -> None:
        self._holders[digest] -= 1
        if not self._holders[digest]:
            del self._holders[digest]

    @property
    def held(self) -> Mapping[Digest, int]:
        """How many hold each digest; only those that somebody holds."""
        return self._holders

    def note_use(self, digest: Digest, *, now: float) -> None:
        """Notes a use, cheaply: the order changes when the noted uses are taken up."""
        self._just_used.pop(digest, None)
        self._just_used[digest] = now

    def noted_uses(self) -> list[tuple[Digest, float]]:
        """The uses since the last call, oldest first; for `used`, with what each digest references."""
        noted = list(self._just_used.items())
        self._just_used.clear()
        return noted

    def used(self, digest: Digest, *, now: float) -> None:
        """Puts a blob at the end of the order. To be called in the order of time."""
        entry = self._entries.pop(digest, None)
        if entry is not None:
            entry.used = max(entry.used, now)
            self._entries[digest] = entry
            self.changed = True

    def oldest_first(self) -> Iterator[StoredBlob]:
        """All blobs in the order of last use."""
        return (StoredBlob(digest, entry.size) for digest, entry in self._entries.items())

    def last_use(self, digest: Digest) -> float | None:
        """When a blob was last used, as far as that is taken up; None where it is not stored."""
        entry = self._entries.get(digest)
        return None if entry is None else max(entry.used, self._just_used.get(digest, 0.0))

    def last_uses(self) -> dict[Digest, float]:
        """When each blob was last used, in seconds since the epoch."""
        return {digest: entry.used for digest, entry in self._entries.items()}
