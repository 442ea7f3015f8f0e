"""Uses: what was used lately, and with it what that references, brought into the order of last use."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from mirror.oci.digest import Digest
from mirror.oci.manifest import LARGEST
from mirror.storage.inventory import Inventory
from mirror.storage.protocols import Ledger

_DEEPEST = 3  # index -> manifest -> layer; an index of indexes is one more than anybody builds


class Usage:
    """The uses of what one inventory holds."""

    def __init__(self, inventory: Inventory, ledger: Ledger) -> None:
        self._inventory = inventory
        self._ledger = ledger
        self._taking_up = asyncio.Lock()

    async def take_up(self) -> None:
        """Applies the uses since the last time to the order: what a manifest references was used with it."""
        async with self._taking_up:  # whoever comes second waits, or would not see what the first is about to apply
            noted = self._inventory.noted_uses()
            references = await self._references({digest for digest, _ in noted})
            for digest, used in noted:
                for one in _closure(digest, references):
                    self._inventory.used(one, now=used)

    async def _references(self, digests: set[Digest]) -> dict[Digest, tuple[Digest, ...]]:
        """What those of *digests* that are manifests reference, level by level."""
        found: dict[Digest, tuple[Digest, ...]] = {}
        for _ in range(_DEEPEST):
            small = [one for one in digests if (self._inventory.size(one) or LARGEST) < LARGEST and one not in found]
            level = await self._ledger.manifests(small) if small else {}
            found.update((digest, fact.references) for digest, fact in level.items())
            digests = {reference for fact in level.values() for reference in fact.references}
        return found

    async def write_down(self) -> None:
        """Brings into the ledger when each blob was last used, if that changed."""
        await self.take_up()
        if self._inventory.changed:
            self._inventory.changed = False
            if not await self._ledger.keep_uses(self._inventory.last_uses()):
                self._inventory.changed = True


def _closure(digest: Digest, references: Mapping[Digest, tuple[Digest, ...]]) -> Iterator[Digest]:
    """A digest after all that it references, so that a manifest never outlives its layers."""
    for reference in references.get(digest, ()):
        if reference != digest:
            yield from _closure(reference, references)
    yield digest
