"""Inventory of stored blobs: the size of each, its last use, its holders, and the LRU order. In memory, without I/O.

Invariants: `occupied` is the sum of the stored and the reserved bytes, `evictable` that of the stored ones without a
holder; `oldest_first` is the order of last use.

A cache may hold a million blobs, so a blob is a slot in a few arrays instead of an object: about 230 bytes each with
its name. The order is a doubly linked list inside two of the arrays (`_before`, `_after`); slot 0 is its head.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import count

from mirror.oci.digest import Digest
from mirror.storage.blob_rows import NamedBlob
from mirror.storage.eviction import NameAndSize

_HEAD = 0
_PARTS, _SAMPLES = 16, 1024  # of the sort at the start
_ALGORITHMS = {64: "sha256", 128: "sha512"}  # by the number of hex digits
BlobRow = tuple[str, int, float]
"""The text of a blob's digest, its size, and its last use in seconds since the epoch."""


class BlobTable:
    """Size, last use and LRU position of each blob, by the hex digits of its digest. Every change is O(1)."""

    def __init__(self) -> None:
        self.slots: dict[str, int] = {}
        self.stored = 0  # bytes
        self._names: list[str] = [""]
        self._sizes = array("q", [0])
        self._used = array("d", [0.0])
        self._before = array("i", [_HEAD])
        self._after = array("i", [_HEAD])
        self._free = array("i")  # slots of removed blobs
        self._changed = bytearray(1)  # by slot: whether its row is not written yet
        self._changed_slots = array("i")

    def size(self, name: str) -> int | None:
        slot = self.slots.get(name)
        return None if slot is None else self._sizes[slot]

    def last_use(self, name: str) -> float | None:
        slot = self.slots.get(name)
        return None if slot is None else self._used[slot]

    def add(self, name: str, size: int, used: float) -> None:
        """Add a blob that is not in the table, as the one used last."""
        if self._free:
            slot = self.slots[name] = self._free.pop()
            self._names[slot], self._sizes[slot], self._used[slot] = name, size, used
        else:
            slot = len(self._names)
            self.extend([(name, size, used)])
            self._before.append(slot)
            self._after.append(slot)
            self._changed.append(0)
        self.stored += size
        self._link(slot)
        self._mark(slot)

    def extend(self, blobs: Sequence[NamedBlob]) -> None:
        """Load blobs that are not in the table. The table is complete only after `finish`."""
        if blobs:  # by column: a start loads up to a million blobs
            names, sizes, used = zip(*blobs, strict=True)
            self.slots.update(zip(names, count(len(self._names))))
            self._names += names
            self._sizes.extend(sizes)
            self._used.extend(used)

    def finish(self, absent: Iterable[str], unwritten: Iterable[str]) -> None:
        """End loading: remove *absent* blobs, mark the rows of *unwritten* ones as changed, and sort by last use."""
        slots = len(self._names)
        is_unique = len(self.slots) + len(self._free) == slots - 1  # a damaged database can have two rows of a blob
        self.stored = sum(self._sizes if is_unique else [self._sizes[slot] for slot in self.slots.values()])
        self._changed.extend(bytes(slots - len(self._changed)))
        for links in (self._before, self._after):
            links.extend(array("i", bytes(4 * (slots - len(links)))))
        before = _HEAD
        for slot in self._sorted_slots():
            self._after[before] = slot
            self._before[slot] = before
            before = slot
        self._after[before], self._before[_HEAD] = _HEAD, before
        for name in absent:
            self.remove(name)
        self.mark_changed(unwritten)

    def _sorted_slots(self) -> Iterator[int]:
        """Yield all slots in the order of last use, sorted in parts: at once they would take 48 MiB for a million."""
        sample = sorted(self._used[1 :: len(self._used) // _SAMPLES + 1])
        limits = sample[:: len(sample) // _PARTS + 1]
        parts = [array("i") for _ in range(len(limits) + 1)]
        for slot in self.slots.values():
            parts[bisect_left(limits, self._used[slot])].append(slot)
        for part in parts:
            yield from sorted(part, key=self._used.__getitem__)

    def remove(self, name: str) -> bool:
        """Remove a blob. Return whether it was in the table."""
        slot = self.slots.pop(name, None)
        if slot is None:
            return False
        self._unlink(slot)
        self.stored -= self._sizes[slot]
        self._names[slot] = ""
        self._changed[slot] = 0
        self._free.append(slot)
        return True

    def resize(self, name: str, size: int) -> None:
        """Replace the size of a blob, if it is in the table."""
        slot = self.slots.get(name)
        if slot is not None:
            self.stored += size - self._sizes[slot]
            self._sizes[slot] = size
            self._mark(slot)

    def use(self, name: str, now: float) -> None:
        """Move a blob to the end of the order, if it is in the table."""
        slot = self.slots.get(name)
        if slot is not None:
            self._used[slot] = max(self._used[slot], now)
            self._unlink(slot)
            self._link(slot)
            self._mark(slot)

    def oldest_first(self) -> Iterator[NameAndSize]:
        """Yield name and size of each blob. The table must not change meanwhile."""
        slot = self._after[_HEAD]
        while slot != _HEAD:
            yield self._names[slot], self._sizes[slot]
            slot = self._after[slot]

    def used_since(self, since: float) -> list[tuple[str, int, float]]:
        """Return the blobs last used at *since* or later, oldest first."""
        found = []
        slot = self._before[_HEAD]
        while slot != _HEAD and self._used[slot] >= since:
            found.append((self._names[slot], self._sizes[slot], self._used[slot]))
            slot = self._before[slot]
        return found[::-1]

    @property
    def is_changed(self) -> bool:
        """Whether a row may have changed since the last `take_changed`."""
        return bool(self._changed_slots)

    def mark_changed(self, names: Iterable[str]) -> None:
        """Return the rows of these blobs from the next `take_changed`."""
        for name in names:
            slot = self.slots.get(name)
            if slot is not None:
                self._mark(slot)

    def take_changed(self, limit: int) -> list[BlobRow]:
        """Return up to *limit* rows that changed since they were returned last: the latest changes first."""
        rows: list[BlobRow] = []
        while self._changed_slots and len(rows) < limit:
            slot = self._changed_slots.pop()
            if self._changed[slot]:  # its blob was not removed since
                self._changed[slot] = 0
                name = self._names[slot]
                rows.append((f"{_ALGORITHMS[len(name)]}:{name}", self._sizes[slot], round(self._used[slot], 3)))
        return rows

    def _mark(self, slot: int) -> None:
        if not self._changed[slot]:
            self._changed[slot] = 1
            self._changed_slots.append(slot)

    def _link(self, slot: int) -> None:
        last = self._before[_HEAD]
        self._after[last] = self._before[_HEAD] = slot
        self._before[slot], self._after[slot] = last, _HEAD

    def _unlink(self, slot: int) -> None:
        before, after = self._before[slot], self._after[slot]
        self._after[before], self._before[after] = after, before


class Inventory:
    """The blobs of one store."""

    def __init__(self) -> None:
        self._blobs = BlobTable()
        self._hidden: set[Digest] = set()
        self._just_used: dict[Digest, float] = {}  # in the order of use; not yet applied to the LRU order
        self._holders: Counter[str] = Counter()  # by name
        self._held = 0  # bytes of stored blobs that have a holder
        self._reserved = 0

    @property
    def occupied(self) -> int:
        """Bytes of all stored blobs, and bytes that are reserved."""
        return self._blobs.stored + self._reserved

    @property
    def evictable(self) -> int:
        """Bytes of all stored blobs that have no holder, hidden ones included."""
        return self._blobs.stored - self._held

    def __len__(self) -> int:
        return len(self._blobs.slots)

    def __contains__(self, digest: object) -> bool:
        return isinstance(digest, Digest) and digest.hex in self._blobs.slots and digest not in self._hidden

    def size(self, digest: Digest) -> int | None:
        return None if digest in self._hidden else self._blobs.size(digest.hex)

    def names(self) -> list[str]:
        """Return the hex digits of every stored blob, hidden ones included, in any order."""
        return list(self._blobs.slots)

    def hide(self, digest: Digest) -> None:
        """Treat a blob that can't be read as absent, although it takes its space."""
        self._hidden.add(digest)

    def show(self, digest: Digest) -> None:
        """Treat a hidden blob as present again."""
        self._hidden.discard(digest)

    def show_hidden(self, *, but: AbstractSet[Digest] = frozenset()) -> None:
        """Treat the blobs that could not be read as present again, all *but* some."""
        self._hidden &= but

    def load(self, found: BlobTable, *, since: float) -> None:
        """Replace all blobs by those *found* on the disk, but keep those that were added or used *since* the scan."""
        for name, size, used in self._blobs.used_since(since):
            found.remove(name)
            found.add(name, size, used)
        self._blobs = found
        self._held = sum(found.size(name) or 0 for name in self._holders)
        self._hidden.clear()

    def add(self, digest: Digest, size: int, *, now: float) -> None:
        """Add a blob that was just committed, as the one used last."""
        self.remove(digest)
        self._blobs.add(digest.hex, size, now)
        self._held += self._held_bytes(digest.hex)

    def remove(self, digest: Digest) -> bool:
        """Remove a blob. Return whether it was there."""
        self._hidden.discard(digest)  # in any case: a blob that is added later must not be hidden
        self._held -= self._held_bytes(digest.hex)
        return self._blobs.remove(digest.hex)

    def resize(self, digest: Digest, size: int) -> None:
        """Correct the size of a blob, if it is stored."""
        self._held -= self._held_bytes(digest.hex)
        self._blobs.resize(digest.hex, size)
        self._held += self._held_bytes(digest.hex)

    def reserve(self, size: int) -> None:
        """Count *size* bytes for content in progress; a negative size returns them."""
        self._reserved += size

    def hold(self, digest: Digest) -> None:
        self._holders[digest.hex] += 1
        if self._holders[digest.hex] == 1:
            self._held += self._held_bytes(digest.hex)

    def release(self, digest: Digest) -> None:
        if self._holders[digest.hex] == 1:
            self._held -= self._held_bytes(digest.hex)
            del self._holders[digest.hex]
        else:
            self._holders[digest.hex] -= 1

    def _held_bytes(self, name: str) -> int:
        """Return the bytes of a blob that is stored and has a holder; 0 of any other."""
        return (self._blobs.size(name) or 0) if name in self._holders else 0

    @property
    def held(self) -> Mapping[str, int]:
        """The number of holders of each blob that has any, also of one that is not stored, by name."""
        return self._holders

    def note_use(self, digest: Digest, *, now: float) -> None:
        """Note a use, cheaply: the order changes only when the noted uses are applied."""
        self._just_used.pop(digest, None)
        self._just_used[digest] = now

    def noted_uses(self) -> list[tuple[Digest, float]]:
        """Return the uses since the last call, oldest first: the caller passes each and its references to `used`."""
        noted = list(self._just_used.items())
        self._just_used.clear()
        return noted

    def used(self, digest: Digest, *, now: float) -> None:
        """Move a blob to the end of the order. Calls must come in the order of time."""
        self._blobs.use(digest.hex, now)

    def oldest_first(self) -> Iterator[NameAndSize]:
        """Yield name and size of each blob in the order of last use. The inventory must not change meanwhile."""
        return self._blobs.oldest_first()

    def last_use(self, digest: Digest) -> float | None:
        """Return when a blob was last used, in seconds since the epoch; None if it is not stored."""
        used = self._blobs.last_use(digest.hex)
        return None if used is None else max(used, self._just_used.get(digest, 0.0))

    @property
    def is_changed(self) -> bool:
        """Whether the size or last use of a blob changed since `take_changed` returned it."""
        return self._blobs.is_changed

    def take_changed(self, limit: int) -> list[BlobRow]:
        """Return up to *limit* blobs whose size or last use changed since they were returned last."""
        return self._blobs.take_changed(limit)

    def return_changed(self, rows: Iterable[BlobRow]) -> None:
        """Let `take_changed` return these again: they could not be written."""
        self._blobs.mark_changed(text.partition(":")[2] for text, _, _ in rows)


def digest_of(name: str) -> Digest:
    """Return the digest with these hex digits. Their number determines the algorithm."""
    return Digest(_ALGORITHMS[len(name)], name)
