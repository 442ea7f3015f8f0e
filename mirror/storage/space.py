"""Disk space of a store: enforces max_size and min_free by LRU eviction before bytes are received.

Invariants: `blobs/` and `ingest/` together never exceed max_size, and a blob that is held is not evicted.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog

from mirror.config import CacheSettings
from mirror.errors import NoSpace, StorageFailed
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.storage.eviction import NameAndSize, choose_victims
from mirror.storage.layout import Layout, storage_errors
from mirror.storage.lru_inventory import Inventory, digest_of
from mirror.storage.threads import DiskThreads
from mirror.storage.usage import Usage

_EVICTED_AT_ONCE = 16  # blobs, by one call in a thread
log = structlog.get_logger()


class OpenIngest(Protocol):
    """An ingest in progress, as far as its space is concerned: bytes reserved, and bytes written of them."""

    digest: Digest
    reserved: int
    written: int


@dataclass(frozen=True, slots=True)
class _Victim:
    """A blob that is being evicted."""

    digest: Digest
    size: int


class Space:
    """The space of one store.

    Attributes:
        kept: bytes that each interrupted download left in ingest/, oldest first.
        ingests: the ingests in progress.
        evicting: the blobs whose files are being removed, with the event of their end.
        limit: bytes that all content together never exceeds.
    """

    def __init__(
        self,
        settings: CacheSettings,
        layout: Layout,
        inventory: Inventory,
        usage: Usage,
        metrics: Metrics,
        threads: DiskThreads,
        evicted: Callable[[Iterable[Digest]], None],
    ) -> None:
        """*evicted* is called with the digests of blobs that were removed; it must not block."""
        self.limit = settings.max_size
        self._min_free = settings.min_free
        self._layout = layout
        self._inventory = inventory
        self._usage = usage
        self._metrics = metrics
        self._threads = threads
        self._evicted = evicted
        self.kept: dict[Digest, int] = {}
        self.ingests: set[OpenIngest] = set()
        self.evicting: dict[Digest, asyncio.Event] = {}
        self.lock = asyncio.Lock()

    async def can_reserve(self, size: int) -> bool:
        """Return whether *size* bytes could be stored now. Evicts nothing.

        Raises:
            StorageFailed: if the free space can't be determined.
        """
        return await self._excess(size) <= sum(self.kept.values()) + self._inventory.evictable

    async def reserve(self, size: int) -> None:
        """Reserve *size* bytes and evict blobs for them.

        Raises:
            NoSpace: if max_size and min_free can't both be kept. Nothing was evicted then, unless readers opened the
                rest of the victims meanwhile.
            StorageFailed: if a file can't be removed.
        """
        await self._usage.apply()
        async with self.lock:  # until the victims are gone, or another caller would count their space as free
            await self._free(await self._excess(size), size)
            self._inventory.reserve(size)

    async def free(self, size: int) -> None:
        """Free *size* bytes of a disk that just reported to be full, whatever it reports as free space.

        Raises:
            NoSpace: if content that may be evicted frees too little.
            StorageFailed: if a file can't be removed.
        """
        await self._usage.apply()
        async with self.lock:
            await self._free(max(size, await self._excess(0)), size)

    async def reserve_growing(self, size: int, reserved: int) -> None:
        """Reserve *size* more bytes for content of unknown size, for which *reserved* bytes are reserved.

        Above a quarter of max_size such content evicts nothing: if it turns out to be larger than the cache, it must
        not have emptied it first.

        Raises:
            NoSpace: if there is too little space; above that quarter, also if eviction could provide it.
            StorageFailed: if a file can't be removed.
        """
        if reserved + size > self.limit // 4 and await self._excess(size) > 0:
            raise NoSpace(f"no space for more than {reserved} bytes of a blob of unknown size: raise max_size")
        await self.reserve(size)

    async def discard(self, digest: Digest, unused_since: float | None) -> int:
        """Remove a blob that is not held, nor was used since. Return the bytes that became free.

        Raises:
            StorageFailed: if it can't be removed.
        """
        await self._usage.apply()
        async with self.lock:
            size, used = self._inventory.size(digest), self._inventory.last_use(digest) or 0.0
            is_used = unused_since is not None and used >= unused_since
            if size is None or is_used or digest.hex in self._inventory.held:
                return 0
            return await self._evict([(digest.hex, size)])

    def _victims(self, excess: int) -> list[NameAndSize] | None:
        excess -= sum(self.kept.values())
        blobs = self._inventory
        return choose_victims(blobs.oldest_first(), excess=excess, evictable=blobs.evictable, held=blobs.held)

    async def _free(self, excess: int, size: int) -> None:
        while excess > 0:  # again if readers opened victims while others were removed
            chosen = self._victims(excess)
            if chosen is None:
                raise NoSpace(self._no_space(excess, size), needed=size, limit=self.limit)
            excess -= await self._remove_kept(excess)
            excess -= await self._evict(chosen)

    def _no_space(self, excess: int, size: int) -> str:
        problem = f"{size} bytes do not fit" if size else "max_size or min_free is exceeded"
        return (
            f"{problem}: the cache has {self._inventory.occupied} of {self.limit} bytes (max_size; min_free is "
            f"{self._min_free}), and {excess} bytes must be evicted, more than all content that is neither pinned nor "
            f"in use: raise max_size, free disk space, or unpin images"
        )

    async def _excess(self, size: int) -> int:
        """Return the bytes to remove before *size* more are stored: above max_size, or below min_free."""
        above = self._inventory.occupied + size - self.limit
        free = await self._threads.run(self._free_of_disk)
        expected = sum(one.reserved - one.written for one in self.ingests)
        return max(above, self._min_free + size + expected - free)

    def _free_of_disk(self) -> int:
        with storage_errors(f"the free space of {self._layout.root} can't be determined"):
            disk = os.statvfs(self._layout.root)
            return disk.f_bavail * disk.f_frsize

    async def _remove_kept(self, excess: int) -> int:
        """Remove the files of interrupted downloads, oldest first, for *excess* bytes. Return how many became free."""
        freed = 0
        for digest, size in list(self.kept.items()):
            if freed >= excess:
                break
            await self._remove_ingest(digest, size)
            freed += size
        return freed

    async def _remove_ingest(self, digest: Digest, size: int) -> None:
        del self.kept[digest]
        self._inventory.reserve(-size)
        try:
            await self._threads.run(partial(_unlink, self._layout.ingest(digest)))
        except StorageFailed:
            self.keep(digest, size)  # the file is still there, and counts
            raise

    async def _evict(self, chosen: Sequence[NameAndSize]) -> int:
        """Remove blobs, except those that were opened since they were chosen. Return the bytes that became free."""
        removed: list[_Victim] = []
        try:
            for at in range(0, len(chosen), _EVICTED_AT_ONCE):
                await self._remove(chosen[at : at + _EVICTED_AT_ONCE], removed)
        finally:
            freed = sum(stored.size for stored in removed)
            if removed:
                log.info("blobs_evicted", blobs=len(removed), bytes=freed)
        return freed

    async def _remove(self, chosen: Iterable[NameAndSize], removed: list[_Victim]) -> None:
        """Remove blobs that no reader holds, and add them to *removed*.

        Raises:
            StorageFailed: if a file can't be removed; it and the later ones stay.
        """
        ended = asyncio.Event()
        victims: list[_Victim] = []
        for name, size in chosen:
            digest = digest_of(name)
            if name not in self._inventory.held and self._inventory.remove(digest):
                self.evicting[digest] = ended  # nothing waits between these lines: a later reader waits for it
                victims.append(_Victim(digest, size))
        gone: list[_Victim] = []
        try:
            await self._threads.run(partial(self._unlink_all, victims, gone))
        finally:  # also if the caller was cancelled
            for stored in victims[len(gone) :]:  # the file is still there, and counts
                self._inventory.add(stored.digest, stored.size, now=time.time())
            self._metrics.evictions.inc(len(gone))
            self._evicted([stored.digest for stored in gone])  # last: a crash must leave no content without its facts
            removed += gone
            for stored in victims:
                del self.evicting[stored.digest]
            ended.set()

    def _unlink_all(self, chosen: Sequence[_Victim], gone: list[_Victim]) -> None:
        for stored in chosen:
            _unlink(self._layout.blob(stored.digest))
            gone.append(stored)

    def load(self, kept: Mapping[Digest, int]) -> None:
        """Replace the record of interrupted downloads by the files found on the disk."""
        self._inventory.reserve(-sum(self.kept.values()))
        self.kept.clear()
        in_progress = {one.digest for one in self.ingests}
        for digest, size in kept.items():
            if digest not in in_progress:
                self.keep(digest, size)

    def keep(self, digest: Digest, size: int) -> None:
        """Count the bytes of an interrupted download."""
        self.kept[digest] = size
        self._inventory.reserve(size)

    async def forget_kept(self, *, older_than: float) -> None:
        """Remove the files that interrupted downloads left more than *older_than* seconds ago."""
        limit = time.time() - older_than
        async with self.lock:
            for digest, size in list(self.kept.items()):
                if await self._threads.run(partial(_last_change, self._layout.ingest(digest))) < limit:
                    await self._remove_ingest(digest, size)


def _unlink(path: str) -> None:
    with storage_errors("a file can't be removed to free space"), suppress(FileNotFoundError):
        os.unlink(path)


def _last_change(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0
