"""The store on local disk.

Its laws: nothing is visible before it is verified and durable; `blobs/` and `ingest/` together never stand above
max_size, because room is made before bytes arrive; nothing that is held is evicted.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

import structlog

from mirror.config import CacheSettings
from mirror.errors import NoRoom, StorageFailed
from mirror.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.oci.manifest import LARGEST
from mirror.policy import Stored, victims
from mirror.storage import Ledger
from mirror.storage.ingest import DiskIngest
from mirror.storage.inventory import Inventory
from mirror.storage.layout import Layout, storage_errors

_Result = TypeVar("_Result")
_THREADS = 8
_DEEPEST = 3  # index -> manifest -> layer; an index of indexes is one more than anybody builds
log = structlog.get_logger()


class DiskBlob:
    """A committed blob, open. The descriptor keeps the bytes whatever happens to the name."""

    def __init__(self, size: int, descriptor: int) -> None:
        self.size = size
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    async def reach(self, offset: int) -> int:  # noqa: ARG002 - all of it is there
        return self.size


class DiskStore:
    """Blobs and ingests in one cache directory. One process writes to it."""

    def __init__(
        self, settings: CacheSettings, layout: Layout, ledger: Ledger, metrics: Metrics, threads: ThreadPoolExecutor
    ) -> None:
        self._limit = settings.max_size
        self._floor = settings.min_free
        self._layout = layout
        self._ledger = ledger
        self._metrics = metrics
        self._threads = threads
        self._inventory = Inventory()
        self._kept_ingests: dict[Digest, int] = {}
        self._open_ingests: set[DiskIngest] = set()
        self._numbers = itertools.count()
        self._making_room = asyncio.Lock()
        self._taking_up = asyncio.Lock()
        metrics.cache_limit_bytes.set(settings.max_size)
        metrics.cache_bytes.set_function(lambda: self._inventory.occupied)

    @classmethod
    @asynccontextmanager
    async def at(cls, settings: CacheSettings, ledger: Ledger, metrics: Metrics) -> AsyncIterator[DiskStore]:
        """The store in `settings.path`, as it was left.

        Raises:
            StorageFailed: the directory can't be read or written.
        """
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="store") as threads:
            layout = Layout(settings.path)
            store = cls(settings, layout, ledger, metrics, threads)
            await store._run(layout.create)
            await store._load()
            try:
                yield store
            finally:
                await store.flush()

    async def _load(self) -> None:
        uses = await self._ledger.uses()

        def scan() -> tuple[dict[Digest, tuple[int, float]], dict[Digest, int]]:
            with storage_errors(f"the cache directory {self._layout.root} can't be read"):
                found = {
                    digest: (status.st_size, uses.get(digest, status.st_mtime))
                    for digest, status in self._layout.blobs()
                }
                return found, self._layout.kept_ingests()

        found, self._kept_ingests = await self._run(scan)
        self._inventory.load(found)
        self._inventory.reserve(sum(self._kept_ingests.values()))
        try:
            await self.make_room(0)  # max_size may be smaller than it was
        except NoRoom as error:
            log.warning("cache_too_full", reason=str(error))

    async def _run(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    @property
    def occupied(self) -> int:
        """Bytes of all blobs and ingests, with the room that is kept for arriving ones."""
        return self._inventory.occupied

    def __len__(self) -> int:
        return len(self._inventory)

    def __contains__(self, digest: object) -> bool:
        return digest in self._inventory

    def size(self, digest: Digest) -> int | None:
        return self._inventory.size(digest)

    def use(self, digest: Digest) -> None:
        self._inventory.note_use(digest, now=time.time())

    @asynccontextmanager
    async def hold(self, digest: Digest) -> AsyncIterator[None]:
        self._inventory.hold(digest)
        try:
            yield
        finally:
            self._inventory.release(digest)

    @asynccontextmanager
    async def open(self, digest: Digest) -> AsyncIterator[DiskBlob | None]:
        async with self.hold(digest):
            size = self._inventory.size(digest)
            descriptor = None if size is None else await self._descriptor(digest)
            if size is None or descriptor is None:
                yield None
                return
            try:
                self.use(digest)
                yield DiskBlob(size, descriptor)
            finally:
                os.close(descriptor)

    async def _descriptor(self, digest: Digest) -> int | None:
        opening = asyncio.get_running_loop().run_in_executor(self._threads, _opened, self._layout.blob(digest))
        try:
            descriptor = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)  # the client left while the file was being opened
            raise
        if descriptor is None:
            self._inventory.remove(digest)  # someone removed it behind the store's back: it is a miss
        return descriptor

    async def read(self, digest: Digest) -> bytes | None:
        async with self.open(digest) as blob:
            if blob is None:
                return None
            return await self._run(lambda: os.pread(blob.fileno(), blob.size, 0))

    async def put(self, digest: Digest, content: bytes) -> None:
        if digest in self:
            return
        await self.make_room(len(content))
        try:
            await self._run(lambda: self._put(digest, content))
            self._enter(digest, len(content))
        finally:
            self._inventory.reserve(-len(content))

    def _put(self, digest: Digest, content: bytes) -> None:
        path = self._layout.put(next(self._numbers))
        with storage_errors(f"{digest} can't be stored"):
            try:
                with open(path, "xb") as file:
                    file.write(content)
                    file.flush()
                    os.fchmod(file.fileno(), 0o444)
                    os.fsync(file.fileno())
                self._layout.publish(path, digest)
            except OSError:
                if os.path.exists(path):
                    os.unlink(path)
                raise

    @asynccontextmanager
    async def ingest(self, digest: Digest) -> AsyncIterator[DiskIngest]:
        async with self._making_room:  # which may be about to remove what was kept
            kept = self._kept_ingests.pop(digest, 0)
        ingest = DiskIngest(digest, self._layout, self._threads, make_room=self.make_room, kept=kept)
        self._open_ingests.add(ingest)
        try:
            await ingest.open()
            yield ingest
        finally:
            try:
                await ingest.close()
            finally:
                self._open_ingests.discard(ingest)
                self._inventory.reserve(-ingest.reserved)
                if ingest.committed:
                    self._enter(digest, ingest.written)
                elif ingest.written:
                    self._kept_ingests[digest] = ingest.written
                    self._inventory.reserve(ingest.written)

    def _enter(self, digest: Digest, size: int) -> None:
        """Takes in a blob that was just committed: whoever brought it is about to use it, and what it references."""
        self._inventory.add(digest, size, now=time.time())
        self.use(digest)

    async def has_room(self, size: int) -> bool:
        return self._victims(await self._excess(size)) is not None

    def _victims(self, excess: int) -> list[Stored] | None:
        excess -= sum(self._kept_ingests.values())
        return victims(self._inventory.oldest_first(), excess=excess, held=self._inventory.held)

    async def make_room(self, size: int) -> None:
        """Reserves *size* bytes, evicting what must go for them first.

        Raises:
            NoRoom: max_size and min_free can't both hold; then nothing was evicted.
            StorageFailed: something can't be removed.
        """
        await self._take_up_uses()
        async with self._making_room:  # until what was chosen is gone, or another would count its room as free
            excess = await self._excess(size)
            chosen = self._victims(excess)
            if chosen is None:
                raise NoRoom(
                    f"there is no room for {size} bytes: {self._inventory.occupied} of {self._limit} are taken "
                    f"(max_size), {excess} too many with them (min_free is {self._floor}), and the rest is in use",
                    needed=size,
                    limit=self._limit,
                )
            await self._drop_kept_ingests(excess)
            await self._evict(chosen)
            self._inventory.reserve(size)

    async def _excess(self, size: int) -> int:
        """Bytes that have to go before *size* more may come: above max_size, or below min_free."""
        above = self._inventory.occupied + size - self._limit
        with storage_errors(f"the free space of {self._layout.root} can't be told"):
            disk = await self._run(lambda: os.statvfs(self._layout.root))
        coming = sum(ingest.reserved - ingest.written for ingest in self._open_ingests)
        return max(above, self._floor + size + coming - disk.f_bavail * disk.f_frsize)

    async def _take_up_uses(self) -> None:
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

    async def _drop_kept_ingests(self, excess: int) -> None:
        """Removes what broken-off downloads left, oldest first, until *excess* bytes are free."""
        for digest, size in list(self._kept_ingests.items()):
            if excess <= 0:
                return
            await self._drop_kept_ingest(digest, size)
            excess -= size

    async def _drop_kept_ingest(self, digest: Digest, size: int) -> None:
        await self._run(partial(_unlink, self._layout.ingest(digest)))
        del self._kept_ingests[digest]
        self._inventory.reserve(-size)

    async def _evict(self, chosen: list[Stored]) -> None:
        for at, stored in enumerate(chosen):
            self._inventory.remove(stored.digest)  # first: nobody is to open it any more
            try:
                await self._run(partial(_unlink, self._layout.blob(stored.digest)))
            except StorageFailed:
                self._inventory.add(stored.digest, stored.size, now=time.time())  # it is still there, and counts
                chosen = chosen[:at]
                raise
            self._metrics.evictions.inc()
        if chosen:
            log.info("blobs_evicted", blobs=len(chosen), bytes=sum(stored.size for stored in chosen))

    async def forget_ingests(self, *, older_than: float) -> None:
        """Removes what downloads left more than *older_than* seconds ago and nobody came back for."""
        limit = time.time() - older_than
        async with self._making_room:
            for digest, size in list(self._kept_ingests.items()):
                if await self._run(partial(_last_change, self._layout.ingest(digest))) < limit:
                    await self._drop_kept_ingest(digest, size)

    async def flush(self) -> None:
        """Writes down when each blob was last used."""
        await self._take_up_uses()
        await self._ledger.keep_uses(self._inventory.last_uses())


def _closure(digest: Digest, references: Mapping[Digest, tuple[Digest, ...]]) -> Iterator[Digest]:
    """A digest after all that it references, so that a manifest never outlives its layers."""
    for reference in references.get(digest, ()):
        if reference != digest:
            yield from _closure(reference, references)
    yield digest


def _opened(path: str) -> int | None:
    with storage_errors("a blob can't be read"):
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None


def _close_opened(opening: asyncio.Future[int | None]) -> None:
    if not opening.cancelled() and opening.exception() is None and (descriptor := opening.result()) is not None:
        os.close(descriptor)


def _unlink(path: str) -> None:
    with storage_errors("what should make room can't be removed"), suppress(FileNotFoundError):
        os.unlink(path)


def _last_change(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0
