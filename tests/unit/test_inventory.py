"""The inventory: what is stored, how much room it takes, who holds it, and in which order it was last used."""

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mirror.oci.digest import Digest
from mirror.storage.inventory import Inventory

DIGESTS = [Digest.of(bytes([number])) for number in range(6)]
digests = st.sampled_from(DIGESTS)
sizes = st.integers(0, 100)


class InventoryMachine(RuleBasedStateMachine):
    """Beside a model: sizes and last uses of what is stored, a sum, a count, and the uses that are only noted."""

    def __init__(self) -> None:
        super().__init__()
        self.inventory = Inventory()
        self.sizes: dict[Digest, int] = {}
        self.used: dict[Digest, float] = {}
        self.noted: dict[Digest, float] = {}
        self.reserved = 0
        self.held = Counter[Digest]()
        self.now = 0.0

    def tick(self) -> float:
        self.now += 1
        return self.now

    def strike(self, digest: Digest) -> None:
        self.sizes.pop(digest, None)
        self.used.pop(digest, None)

    @rule(digest=digests, size=sizes)
    def add(self, digest: Digest, size: int) -> None:
        self.take_up_uses()  # they were earlier
        self.inventory.add(digest, size, now=self.tick())
        self.sizes[digest], self.used[digest] = size, self.now

    @rule(digest=digests)
    def remove(self, digest: Digest) -> None:
        self.inventory.remove(digest)
        self.strike(digest)

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

    @rule()
    def reload(self) -> None:
        """What was written down makes the same inventory, in the order of last use."""
        self.inventory = Inventory()
        self.inventory.load({digest: (size, self.used[digest]) for digest, size in self.sizes.items()})
        self.noted.clear()
        self.held.clear()
        self.reserved = 0

    @invariant()
    def occupied_is_the_sum(self) -> None:
        assert self.inventory.occupied == sum(self.sizes.values()) + self.reserved

    @invariant()
    def stored_is_what_was_added_and_not_removed(self) -> None:
        assert len(self.inventory) == len(self.sizes)
        for digest in DIGESTS:
            assert (digest in self.inventory) == (digest in self.sizes)
            assert self.inventory.size(digest) == self.sizes.get(digest)
        assert self.inventory.last_uses() == self.used

    @invariant()
    def the_order_is_that_of_use(self) -> None:
        order = sorted(self.sizes, key=lambda digest: self.used[digest])
        assert [(one.digest, one.size) for one in self.inventory.oldest_first()] == [
            (digest, self.sizes[digest]) for digest in order
        ]

    @invariant()
    def held_is_what_somebody_holds(self) -> None:
        assert dict(self.inventory.held) == {digest: count for digest, count in self.held.items() if count}


TestInventory = InventoryMachine.TestCase
