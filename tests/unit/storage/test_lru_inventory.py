"""The inventory, compared with a model: sizes, reserved space, holders, LRU order, and the rows to write."""

import math
from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mirror.oci.digest import Digest
from mirror.storage.lru_inventory import BlobTable, Inventory

DIGESTS = [Digest.of(bytes([number]), "sha512" if number % 3 else "sha256") for number in range(6)]
digests = st.sampled_from(DIGESTS)
sizes = st.integers(0, 100)


class InventoryMachine(RuleBasedStateMachine):
    """The model has sizes and last uses of stored blobs, a sum, holder counts, noted uses, and rows written."""

    def __init__(self) -> None:
        super().__init__()
        self.inventory = Inventory()
        self.sizes: dict[Digest, int] = {}
        self.used: dict[Digest, float] = {}
        self.noted: dict[Digest, float] = {}
        self.reserved = 0
        self.held = Counter[Digest]()
        self.written: dict[Digest, float] = {}  # last uses that were returned as changed
        self.now = 0.0

    def tick(self) -> float:
        self.now += 1
        return self.now

    def strike(self, digest: Digest) -> None:
        self.sizes.pop(digest, None)
        self.used.pop(digest, None)
        self.written.pop(digest, None)

    @rule(digest=digests, size=sizes)
    def add(self, digest: Digest, size: int) -> None:
        self.take_up_uses()  # they were earlier
        self.inventory.add(digest, size, now=self.tick())
        self.sizes[digest], self.used[digest] = size, self.now
        self.written.pop(digest, None)

    @rule(digest=digests)
    def remove(self, digest: Digest) -> None:
        self.inventory.remove(digest)
        self.strike(digest)

    @rule(digest=digests, size=sizes)
    def resize(self, digest: Digest, size: int) -> None:
        """The row with the corrected size is written again."""
        self.inventory.resize(digest, size)
        if digest in self.sizes:
            self.sizes[digest] = size
            self.written.pop(digest, None)

    @rule(size=sizes)
    def reserve(self, size: int) -> None:
        self.inventory.reserve(size)
        self.reserved += size

    @rule(share=st.integers(0, 100))
    def give_back(self, share: int) -> None:
        size = self.reserved * share // 100
        self.inventory.reserve(-size)
        self.reserved -= size

    @rule(digest=digests)
    def hold(self, digest: Digest) -> None:
        self.inventory.hold(digest)
        self.held[digest] += 1

    @rule(digest=digests)
    def release(self, digest: Digest) -> None:
        if self.held[digest]:
            self.inventory.release(digest)
            self.held[digest] -= 1

    @rule(digest=digests)
    def note_use(self, digest: Digest) -> None:
        self.inventory.note_use(digest, now=self.tick())
        self.noted.pop(digest, None)
        self.noted[digest] = self.now

    @rule()
    def take_up_uses(self) -> None:
        """Noted uses come once, oldest first; only then do they count."""
        noted = self.inventory.noted_uses()
        assert noted == list(self.noted.items())
        assert self.inventory.noted_uses() == []
        self.noted.clear()
        for digest, now in noted:
            self.inventory.used(digest, now=now)
            if digest in self.sizes:
                self.used[digest] = max(self.used[digest], now)

    @rule(digest=digests)
    def hide_for_a_while(self, digest: Digest) -> None:
        """A hidden blob keeps its space, and can be evicted."""
        self.inventory.hide(digest)
        assert digest not in self.inventory
        assert self.inventory.size(digest) is None
        self.bytes_are_counted()
        self.inventory.show(digest)

    @rule()
    def reload(self) -> None:
        """The written rows load as the same inventory, in the order of last use."""
        found = BlobTable()
        found.extend([(digest.hex, size, self.used[digest]) for digest, size in self.sizes.items()])
        found.finish([], [])
        self.inventory = Inventory()
        self.inventory.load(found, since=math.inf)
        self.noted.clear()
        self.written = dict(self.used)
        self.held.clear()
        self.reserved = 0

    @invariant()
    def bytes_are_counted(self) -> None:
        assert self.inventory.occupied == sum(self.sizes.values()) + self.reserved
        assert self.inventory.evictable == sum(size for digest, size in self.sizes.items() if not self.held[digest])

    @invariant()
    def stored_blobs_were_added_and_not_removed(self) -> None:
        assert len(self.inventory) == len(self.sizes)
        for digest in DIGESTS:
            assert (digest in self.inventory) == (digest in self.sizes)
            assert self.inventory.size(digest) == self.sizes.get(digest)
            last = self.used.get(digest)
            assert self.inventory.last_use(digest) == (None if last is None else max(last, self.noted.get(digest, 0)))

    @rule(limit=st.integers(1, 7), works=st.booleans())
    def write_changed(self, limit: int, works: bool) -> None:
        """Every row that changed is returned once, and again if it could not be written."""
        rows = self.inventory.take_changed(limit)
        changed = {digest for digest in self.sizes if self.written.get(digest) != self.used[digest]}
        assert len(rows) == min(limit, len(changed)) == len({text for text, _, _ in rows})
        for text, size, used in rows:
            digest = Digest.parse(text)
            assert digest in changed
            assert (size, used) == (self.sizes[digest], self.used[digest])
            if works:
                self.written[digest] = used
        if not works:
            self.inventory.return_changed(rows)

    @rule(digest=digests, size=sizes, lost=digests)
    def load_again(self, digest: Digest, size: int, lost: Digest) -> None:
        """A replaced directory is loaded again: blobs added meanwhile stay, all others are as found."""
        self.take_up_uses()
        found = BlobTable()
        found.extend([(one.hex, self.sizes[one], self.used[one]) for one in self.sizes.keys() - {lost}])
        found.finish([], [])
        self.strike(lost)
        since = self.tick()
        self.add(digest, size)
        self.inventory.load(found, since=since)
        self.written = dict(self.used) | {digest: -1.0}

    @invariant()
    def order_follows_the_last_use(self) -> None:
        order = sorted(self.sizes, key=lambda digest: self.used[digest])
        assert list(self.inventory.oldest_first()) == [(digest.hex, self.sizes[digest]) for digest in order]

    @invariant()
    def held_counts_the_holders(self) -> None:
        assert dict(self.inventory.held) == {digest.hex: count for digest, count in self.held.items() if count}


TestInventory = InventoryMachine.TestCase
