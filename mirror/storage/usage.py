"""Usage tracking: applies noted uses to the LRU order, those of a manifest also to its references, and writes them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import suppress

from mirror.errors import StorageFailed
from mirror.oci.digest import Digest
from mirror.oci.manifest import LARGEST
from mirror.storage.facts import ManifestFact
from mirror.storage.lru_inventory import Inventory
from mirror.storage.protocols import UsageStore

_MAX_DEPTH = 3  # index -> manifest -> layer; indexes of indexes are one level more than any builder makes
_ROWS = 10_000  # taken from the inventory at a time


class Usage:
    """The uses of the blobs in one inventory."""

    def __init__(self, inventory: Inventory, facts: UsageStore) -> None:
        self._inventory = inventory
        self._facts = facts
        self._applying = asyncio.Lock()

    async def apply(self) -> None:
        """Apply the uses noted since the last call to the order. A use of a manifest is one of its references too."""
        async with self._applying:  # a second caller must wait, or it would not see what the first is about to apply
            noted = self._inventory.noted_uses()
            references = await self._references({digest for digest, _ in noted})
            for digest, used in noted:
                for one in _image_graph(digest, references, set()):
                    self._inventory.used(one, now=used)

    async def _references(self, digests: set[Digest]) -> dict[Digest, tuple[Digest, ...]]:
        """Return the references of those *digests* that are manifests, level by level."""
        found: dict[Digest, tuple[Digest, ...]] = {}
        for _ in range(_MAX_DEPTH):
            small = [one for one in digests if (self._inventory.size(one) or LARGEST) < LARGEST and one not in found]
            level: Mapping[Digest, ManifestFact] = {}
            with suppress(StorageFailed):  # the references then keep their age
                level = await self._facts.manifests(small) if small else {}
            found.update((digest, fact.references) for digest, fact in level.items())
            digests = {reference for fact in level.values() for reference in fact.references}
        return found

    async def write(self, *, limit: int | None = None) -> None:
        """Write the rows of blobs that changed, the latest changes first.

        Args:
            limit: rows to write at most; None for all.
        """
        await self.apply()
        written = 0
        while self._inventory.is_changed and (limit is None or written < limit):
            rows = self._inventory.take_changed(_ROWS)
            written += len(rows)
            if rows and not await self._facts.keep_blobs(rows):
                self._inventory.return_changed(rows)
                return


def _image_graph(
    digest: Digest, references: Mapping[Digest, tuple[Digest, ...]], seen: set[Digest]
) -> Iterator[Digest]:
    """Yield all that a digest references and then itself, so that a manifest never outlives its layers.

    Each is yielded once, and added to *seen*: a hostile image has far more paths than blobs, and planted rows cycles.
    """
    seen.add(digest)
    for reference in references.get(digest, ()):
        if reference not in seen:
            yield from _image_graph(reference, references, seen)
    yield digest
