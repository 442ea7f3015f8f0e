"""The store on local disk.

Its laws: nothing is visible before it is verified and durable; what is damaged is not served; what can't be read is
fetched again; and while the directory can't be written, nothing is stored.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import structlog

from mirror.config import CacheSettings
from mirror.errors import DiskFull, StorageFailed
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.primitives.singleflight import KeyedLock
from mirror.storage.blob import BlobDamaged, DiskBlob, close_opened, opened
from mirror.storage.disk_health import DiskHealth
from mirror.storage.ingest import DiskIngest
from mirror.storage.inventory import Inventory
from mirror.storage.layout import Layout, storage_errors
from mirror.storage.protocols import Ledger
from mirror.storage.space import Space
from mirror.storage.threads import DiskThreads
from mirror.storage.usage import Usage

_THREADS = 8
log = structlog.get_logger()


class DiskStore:
    """Blobs and ingests in one cache directory. One process writes to it.

    Attributes:
        condition: whether the directory can be written.
    """

    def __init__(
        self, settings: CacheSettings, layout: Layout, ledger: Ledger, metrics: Metrics, threads: DiskThreads
    ) -> None:
        self.condition = DiskHealth()
        self._layout = layout
        self._ledger = ledger
        self._metrics = metrics
        self._threads = threads
        self._inventory = Inventory()
        self._uses = Usage(self._inventory, ledger)
        self._room = Space(settings, layout, self._inventory, self._uses, metrics, threads)
        self._numbers = itertools.count()
        self._mending = asyncio.Lock()
        self._alone = KeyedLock[Digest]()
        self._identity: object = None
        self._condemned: set[Digest] = set()  # damaged, and could not be removed
        metrics.cache_limit_bytes.set(settings.max_size)
        metrics.cache_writable.set_function(lambda: self.condition.is_writable)
        metrics.cache_bytes.set_function(lambda: self._inventory.occupied)

    @classmethod
    @asynccontextmanager
    async def at(cls, settings: CacheSettings, ledger: Ledger, metrics: Metrics) -> AsyncIterator[DiskStore]:
        """The store in `settings.path`, as it was left.

        Raises:
            StorageFailed: the directory can't be read or written.
        """
        with DiskThreads.running(_THREADS, "store") as threads:
            layout = Layout(settings.path)
            store = cls(settings, layout, ledger, metrics, threads)
            await threads.run(layout.create)
            await store._load()
            try:
                yield store
            finally:
                await store.flush()

    async def _load(self) -> None:
        began = time.time()
        uses = await self._ledger.uses()

        def scan() -> tuple[object, dict[Digest, tuple[int, float]], dict[Digest, int]]:
            with storage_errors(f"the cache directory {self._layout.root} can't be read"):
                found = {
                    digest: (status.st_size, uses.get(digest, status.st_mtime))
                    for digest, status in self._layout.blobs()
                }
                return self._layout.identity(), found, self._layout.kept_ingests()

        async with self._room.lock:
            self._identity, found, kept = await self._threads.run(scan)
            self._inventory.load(found, since=began)
            self._room.load(kept)

    @property
    def occupied(self) -> int:
        """Bytes of all blobs and ingests, with the room that is kept for arriving ones."""
        return self._inventory.occupied

    def __len__(self) -> int:
        return len(self._inventory)

    def __contains__(self, digest: object) -> bool:
        return digest in self._inventory

    def digests(self) -> list[Digest]:
        """What is stored now."""
        return [stored.digest for stored in self._inventory.oldest_first() if stored.digest in self._inventory]

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
        async with self._opened(digest) as blob:
            if blob is not None:
                self.use(digest)
            yield blob

    @asynccontextmanager
    async def _opened(self, digest: Digest) -> AsyncIterator[DiskBlob | None]:
        async with self.hold(digest):
            size = self._inventory.size(digest)
            descriptor = None if size is None else await self._descriptor(digest, size)
            if size is None or descriptor is None:
                yield None
                return
            try:
                yield DiskBlob(size, descriptor, partial(self._hide, digest))
            finally:
                os.close(descriptor)

    async def _descriptor(self, digest: Digest, size: int) -> int | None:
        """An open blob; None where it can't be read or is not what it was: then it is a miss from now on."""
        opening = self._threads.start(partial(opened, self._layout.blob(digest), size))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(close_opened)  # the client left while the file was being opened
            raise
        except FileNotFoundError:
            self._inventory.remove(digest)  # someone removed it behind the store's back
        except BlobDamaged as damage:
            await self.condemn(digest, str(damage))
        except StorageFailed as error:
            self._hide(digest, error)
        return None

    def _hide(self, digest: Digest, error: StorageFailed) -> None:
        self.condition.unreadable(error)
        self._inventory.hide(digest)

    async def read(self, digest: Digest) -> bytes | None:
        async with self._opened(digest) as blob:
            if blob is None:
                return None
            try:
                with storage_errors(f"{digest} can't be read"):
                    return await self._threads.run(lambda: os.pread(blob.fileno(), blob.size, 0))
            except StorageFailed as error:
                self._hide(digest, error)
                return None

    async def condemn(self, digest: Digest, reason: str, *, seen: os.stat_result | None = None) -> None:
        self._inventory.hide(digest)  # first: nobody is to open it any more
        self._metrics.blobs_damaged.inc()
        log.warning("blob_damaged", digest=str(digest), reason=reason)
        await self._remove_condemned(digest, seen)

    async def _remove_condemned(self, digest: Digest, seen: os.stat_result | None) -> None:
        try:
            await self._threads.run(partial(_unlink, self._layout.blob(digest), seen))
        except StorageFailed as error:
            self._condemned.add(digest)  # it takes its room until it can be removed
            self.condition.unreadable(error)
        else:
            self._condemned.discard(digest)
            self._inventory.remove(digest)

    async def put(self, digest: Digest, content: bytes) -> None:
        if digest in self:
            return
        await self._check_writable()
        await self.make_room(len(content))
        published = False

        def publish() -> None:
            nonlocal published
            self._put(digest, content)
            published = True

        try:
            with self.condition.writing():
                await self._run_or_relieve(publish, len(content))
            self.condition.mended()
        finally:
            self._inventory.reserve(-len(content))
            if published:  # also where whoever waited for it was cancelled
                self._enter(digest, len(content))

    async def _run_or_relieve(self, write: Callable[[], None], size: int) -> None:
        try:
            await self._threads.run(write)
        except DiskFull:
            await self._room.relieve(size)
            await self._threads.run(write)

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
        # Two writers of one file, such as an import beside a pull, would each verify what the other wrote over.
        async with self._alone.hold(digest), self._ingest(digest) as ingest:
            yield ingest

    @asynccontextmanager
    async def _ingest(self, digest: Digest) -> AsyncIterator[DiskIngest]:
        await self._check_writable()
        async with self._room.lock:  # who holds it may be about to remove what was kept
            kept = self._room.kept.pop(digest, 0)
        ingest = DiskIngest(digest, self._layout, self._threads, self._room, self.condition, kept=kept)
        self._room.arriving.add(ingest)
        try:
            await ingest.open()
            yield ingest
        finally:
            try:
                await ingest.close()
            except StorageFailed as error:
                ingest.written = ingest.reserved  # what can't be removed takes its room
                self.condition.failed(error)
            finally:
                self._room.arriving.discard(ingest)
                self._inventory.reserve(-ingest.reserved)
                if ingest.committed:
                    self._enter(digest, ingest.written)
                elif ingest.written:
                    self._room.keep(digest, ingest.written)

    def _enter(self, digest: Digest, size: int) -> None:
        """Takes in a blob that was just committed: whoever brought it is about to use it, and what it references."""
        self._inventory.add(digest, size, now=time.time())
        self.use(digest)

    async def has_room(self, size: int) -> bool:
        try:
            await self._check_writable()
            return await self._room.can_be_made(size)
        except StorageFailed:
            return False

    async def make_room(self, size: int) -> None:
        """Reserves *size* bytes, evicting what must go for them first.

        Raises:
            NoSpace: max_size and min_free can't both hold; then nothing was evicted.
            StorageFailed: something can't be removed.
        """
        with self.condition.writing():
            await self._room.make(size)

    @property
    def limit(self) -> int:
        """Bytes that all content together never exceeds."""
        return self._room.limit

    def last_use(self, digest: Digest) -> float | None:
        """When a blob was last used, in seconds since the epoch; None where it is not stored."""
        return self._inventory.last_use(digest)

    async def discard(self, digest: Digest) -> int:
        """Removes a blob, unless it is held; how many bytes became free.

        Raises:
            StorageFailed: it can't be removed.
        """
        return await self._room.discard(digest)

    async def forget_ingests(self, *, older_than: float) -> None:
        """Removes what downloads left more than *older_than* seconds ago and nobody came back for."""
        await self._room.forget_kept(older_than=older_than)

    async def flush(self) -> None:
        """Writes down when each blob was last used."""
        await self._uses.write_down()

    # A directory that can't be written, or is another one

    async def _check_writable(self) -> None:
        """Lets pass who wants to write.

        Raises:
            StorageFailed: the directory can't be written.
        """
        if self.condition.is_to_be_tried:
            with suppress(DiskFull):  # something may have to go first
                await self.mend()
        self.condition.check()

    async def mend(self) -> None:
        """Tries a directory that could not be written; makes anew what is missing, and takes in what is another.

        Raises:
            StorageFailed: it still can't be written.
        """
        async with self._mending:
            with self.condition.writing():
                await self._threads.run(self._layout.create)
                await self._take_in()
            self.condition.mended()
            self._inventory.show_hidden(but=self._condemned)
            for digest in list(self._condemned):
                await self._remove_condemned(digest, None)

    async def _take_in(self) -> None:
        """Takes in what is there, if the directories are others than before."""
        if await self._threads.run(self._layout.identity) != self._identity:
            await self._threads.run(self._layout.lock)
            await self._load()
            log.warning("cache_reloaded", path=str(self._layout.root), blobs=len(self), bytes=self.occupied)

    async def check(self) -> None:
        """Sees whether the directory can be written where that failed, and is still the one that it was.

        Raises:
            StorageFailed
        """
        is_same = False
        with suppress(StorageFailed):
            is_same = await self._threads.run(self._layout.identity) == self._identity
        if self.condition.is_to_be_tried or not is_same:
            await self.mend()


def _unlink(path: str, seen: os.stat_result | None) -> None:
    """Removes a file, unless it is no longer the one that was *seen*."""
    with storage_errors("a damaged blob can't be removed"), suppress(FileNotFoundError):
        if seen is None or os.path.samestat(seen, os.stat(path)):
            os.unlink(path)
