"""Room: what max_size and min_free leave, and what goes for more.

Its law: room is made before bytes arrive, so that `blobs/` and `ingest/` together never stand above max_size; and
nothing that is held goes.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Protocol

import structlog

from mirror.config import CacheSettings
from mirror.errors import NoSpace, StorageFailed
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.storage.eviction import StoredBlob, choose_victims
from mirror.storage.inventory import Inventory
from mirror.storage.layout import Layout, storage_errors
from mirror.storage.threads import DiskThreads
from mirror.storage.usage import Usage

log = structlog.get_logger()


class Arrival(Protocol):
    """What is arriving: so many bytes of its room are taken."""

    digest: Digest
    reserved: int
    written: int


class Space:
    """The room of one store.

    Attributes:
        kept: bytes of what broken-off downloads left, by digest, oldest first.
        arriving: what is arriving now.
        limit: bytes that all content together never exceeds.
    """

    def __init__(
        self,
        settings: CacheSettings,
        layout: Layout,
        inventory: Inventory,
        uses: Usage,
        metrics: Metrics,
        threads: DiskThreads,
    ) -> None:
        self.limit = settings.max_size
        self._floor = settings.min_free
        self._layout = layout
        self._inventory = inventory
        self._uses = uses
        self._metrics = metrics
        self._threads = threads
        self.kept: dict[Digest, int] = {}
        self.arriving: set[Arrival] = set()
        self.lock = asyncio.Lock()

    async def can_be_made(self, size: int) -> bool:
        """Whether *size* bytes could be stored now. Nothing goes for the answer.

        Raises:
            StorageFailed: the free space can't be told.
        """
        return self._victims(await self._excess(size)) is not None

    async def make(self, size: int) -> None:
        """Reserves *size* bytes, evicting what must go for them first.

        Raises:
            NoSpace: max_size and min_free can't both hold; then nothing was evicted.
            StorageFailed: something can't be removed.
        """
        await self._uses.take_up()
        async with self.lock:  # until what was chosen is gone, or another would count its room as free
            await self._free(await self._excess(size), size)
            self._inventory.reserve(size)

    async def relieve(self, size: int) -> None:
        """Frees *size* bytes of a disk that just said that it is full, whatever it says of its free space.

        Raises:
            NoSpace, StorageFailed
        """
        await self._uses.take_up()
        async with self.lock:
            await self._free(max(size, await self._excess(0)), size)

    async def take_growing(self, size: int, grown: int) -> None:
        """Reserves *size* bytes more for content of unknown size, of which *grown* are reserved.

        Much of it takes only what is free: what turns out to be larger than the cache must not empty it first.

        Raises:
            NoSpace, StorageFailed
        """
        if grown + size > self.limit // 4 and await self._excess(size) > 0:
            raise NoSpace(f"there is no room for more than {grown} bytes of a blob whose size upstream does not tell")
        await self.make(size)

    async def discard(self, digest: Digest) -> int:
        """Removes a blob that nobody holds; how many bytes became free.

        Raises:
            StorageFailed: it can't be removed.
        """
        async with self.lock:
            size = self._inventory.size(digest)
            if size is None or digest in self._inventory.held:
                return 0
            await self._evict([StoredBlob(digest, size)])
            return size

    def _victims(self, excess: int) -> list[StoredBlob] | None:
        excess -= sum(self.kept.values())
        return choose_victims(self._inventory.oldest_first(), excess=excess, held=self._inventory.held)

    async def _free(self, excess: int, size: int) -> None:
        chosen = self._victims(excess)
        if chosen is None:
            raise NoSpace(
                f"there is no room for {size} bytes: {self._inventory.occupied} of {self.limit} are taken "
                f"(max_size), {excess} too many with them (min_free is {self._floor}), and the rest is in use",
                needed=size,
                limit=self.limit,
            )
        await self._drop_kept(excess)
        await self._evict(chosen)

    async def _excess(self, size: int) -> int:
        """Bytes that have to go before *size* more may come: above max_size, or below min_free."""
        above = self._inventory.occupied + size - self.limit
        free = await self._threads.run(self._free_of_disk)
        coming = sum(one.reserved - one.written for one in self.arriving)
        return max(above, self._floor + size + coming - free)

    def _free_of_disk(self) -> int:
        with storage_errors(f"the free space of {self._layout.root} can't be told"):
            disk = os.statvfs(self._layout.root)
            return disk.f_bavail * disk.f_frsize

    async def _drop_kept(self, excess: int) -> None:
        """Removes what broken-off downloads left, oldest first, until *excess* bytes are free."""
        for digest, size in list(self.kept.items()):
            if excess <= 0:
                return
            await self._drop(digest, size)
            excess -= size

    async def _drop(self, digest: Digest, size: int) -> None:
        del self.kept[digest]
        self._inventory.reserve(-size)
        try:
            await self._threads.run(partial(_unlink, self._layout.ingest(digest)))
        except StorageFailed:
            self.keep(digest, size)  # it is still there, and counts
            raise

    async def _evict(self, chosen: list[StoredBlob]) -> None:
        for at, stored in enumerate(chosen):
            self._inventory.remove(stored.digest)  # first: nobody is to open it any more
            try:
                await self._threads.run(partial(_unlink, self._layout.blob(stored.digest)))
            except StorageFailed:
                self._inventory.add(stored.digest, stored.size, now=time.time())  # it is still there, and counts
                chosen = chosen[:at]
                raise
            self._metrics.evictions.inc()
        if chosen:
            log.info("blobs_evicted", blobs=len(chosen), bytes=sum(stored.size for stored in chosen))

    def load(self, kept: Mapping[Digest, int]) -> None:
        """Takes over what broken-off downloads left, as it was found on the disk."""
        self._inventory.reserve(-sum(self.kept.values()))
        self.kept.clear()
        arriving = {one.digest for one in self.arriving}
        for digest, size in kept.items():
            if digest not in arriving:
                self.keep(digest, size)

    def keep(self, digest: Digest, size: int) -> None:
        """Counts what a broken-off download left."""
        self.kept[digest] = size
        self._inventory.reserve(size)

    async def forget_kept(self, *, older_than: float) -> None:
        """Removes what downloads left more than *older_than* seconds ago and nobody came back for."""
        limit = time.time() - older_than
        async with self.lock:
            for digest, size in list(self.kept.items()):
                if await self._threads.run(partial(_last_change, self._layout.ingest(digest))) < limit:
                    await self._drop(digest, size)


def _unlink(path: str) -> None:
    with storage_errors("what should make room can't be removed"), suppress(FileNotFoundError):
        os.unlink(path)


def _last_change(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0
