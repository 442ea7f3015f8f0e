"""Blob store on local disk.

Invariants: content is visible only after it is verified and durable; damaged content is not served; content that can't
be read is fetched again; while the directory can't be written, nothing is stored.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

import structlog

from mirror.config import CacheSettings
from mirror.errors import DiskFull, StorageFailed
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.primitives.singleflight import KeyedLock
from mirror.storage.blob import DiskBlob, SizeDiffers, close_opened, document, opened
from mirror.storage.damaged_blobs import DamagedBlobs
from mirror.storage.disk_health import DiskHealth
from mirror.storage.ingest import DiskIngest
from mirror.storage.inspection import FileInspection
from mirror.storage.layout import Layout, storage_errors
from mirror.storage.lru_inventory import Inventory, digest_of
from mirror.storage.protocols import UsageStore
from mirror.storage.space import Space
from mirror.storage.startup import Scan
from mirror.storage.threads import DiskThreads
from mirror.storage.usage import Usage

_THREADS = 8
_ROWS_AT_STOP = 20_000  # about 2 s; the next start takes the rest from the files' own status
log = structlog.get_logger()


class DiskStore:
    """Blobs and ingests in one cache directory. One process writes to it.

    Attributes:
        health: whether the directory can be written.
    """

    def __init__(
        self, settings: CacheSettings, layout: Layout, facts: UsageStore, metrics: Metrics, threads: DiskThreads
    ) -> None:
        self.health = DiskHealth()
        self._layout = layout
        self._facts = facts
        self._metrics = metrics
        self._threads = threads
        self._inventory = Inventory()
        self._usage = Usage(self._inventory, facts)
        self._space = Space(settings, layout, self._inventory, self._usage, metrics, threads, facts.forget_content)
        self._numbers = itertools.count()
        self._repairing = asyncio.Lock()
        self._writers = KeyedLock[Digest]()
        self._puts = KeyedLock[Digest]()
        self._identity: object = None
        self._damaged = DamagedBlobs(layout, self._inventory, facts, self.health, metrics, threads)
        metrics.cache_limit_bytes.set(settings.max_size)
        metrics.cache_writable.set_function(lambda: self.health.is_writable)
        metrics.cache_bytes.set_function(lambda: self._inventory.occupied)

    @classmethod
    @asynccontextmanager
    async def at(cls, settings: CacheSettings, facts: UsageStore, metrics: Metrics) -> AsyncIterator[DiskStore]:
        """Open the store in `settings.path`.

        Raises:
            StorageFailed: if the directory can't be read or written.
        """
        with DiskThreads.running(_THREADS, "store") as threads:
            layout = Layout(settings.path)
            store = cls(settings, layout, facts, metrics, threads)
            await threads.run(layout.create)
            await store._load()
            try:
                async with store._damaged.verifying():
                    yield store
            finally:
                await store._usage.write(limit=_ROWS_AT_STOP)

    async def _load(self) -> None:
        started, scan = time.time(), Scan()
        await self._facts.load_blobs(scan.table.extend)
        async with self._space.lock:
            await self._threads.run(partial(scan.read_directory, self._layout))
            self._identity = scan.identity
            self._inventory.load(scan.table, since=started)
            self._space.load(scan.kept)
        if await self._facts.note_directory(scan.identity):  # otherwise their files may come back with their directory
            self._facts.forget_content(digest for digest in scan.absent if digest not in self._inventory)

    @property
    def occupied(self) -> int:
        return self._inventory.occupied

    @property
    def limit(self) -> int:
        return self._space.limit

    def __len__(self) -> int:
        return len(self._inventory)

    def __contains__(self, digest: object) -> bool:
        return digest in self._inventory

    async def digests(self, *, after: Digest | None = None) -> AsyncIterator[Digest]:
        # In 256 parts: a million digests at once would take 200 MiB, and sorting their names a second of the GIL.
        last = "" if after is None else after.hex
        for number in range(256):
            prefix = f"{number:02x}"
            if prefix >= last[:2]:
                for name in await self._threads.run(partial(_sorted, self._inventory.names(), prefix)):
                    digest = digest_of(name)
                    if name > last and digest in self._inventory:
                        yield digest

    def size(self, digest: Digest) -> int | None:
        return self._inventory.size(digest)

    def last_use(self, digest: Digest) -> float | None:
        return self._inventory.last_use(digest)

    def use(self, digest: Digest) -> None:
        self._inventory.note_use(digest, now=time.time())

    @asynccontextmanager
    async def hold(self, digest: Digest) -> AsyncIterator[None]:
        self._inventory.hold(digest)
        try:
            if (evicted := self._space.evicting.get(digest)) is not None:
                await evicted.wait()
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
            found = await self._descriptor(digest)
            if found is None:
                yield None
                return
            descriptor, size = found
            try:
                yield DiskBlob(size, descriptor, partial(self._hide, digest))
            finally:
                os.close(descriptor)

    async def _descriptor(self, digest: Digest) -> tuple[int, int] | None:
        """Open a blob, and return its file descriptor and size.

        Return None, and treat it as a miss from now on, if it can't be read or is damaged.
        """
        try:
            while (size := self._inventory.size(digest)) is not None:
                try:
                    return await self._open_file(digest, size), size
                except SizeDiffers as difference:
                    if not await self._damaged.is_intact(digest, str(difference)):
                        break
        except FileNotFoundError:
            await self._forget_removed(digest)
        except StorageFailed as error:
            self._hide(digest, error)
        return None

    async def _open_file(self, digest: Digest, size: int) -> int:
        opening = self._threads.start(partial(opened, self._layout, digest, size))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(close_opened)  # the client left while the file was being opened
            raise

    async def _forget_removed(self, digest: Digest) -> None:
        """Forget a blob whose file another program removed; only its file, if the whole directory is gone."""
        self._inventory.remove(digest)
        with suppress(StorageFailed):
            is_same = await self._threads.run(self._layout.identity) == self._identity
            if is_same and digest not in self._inventory:  # it may have been stored again meanwhile
                self._facts.forget_content([digest])

    def _hide(self, digest: Digest, error: StorageFailed) -> None:
        self.health.unreadable(error)
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

    async def read_documents(self, digests: Sequence[Digest]) -> Mapping[Digest, bytes]:
        def read() -> dict[Digest, bytes]:
            found = ((digest, document(self._layout.blob(digest))) for digest in digests)
            return {digest: body for digest, body in found if body}

        return await self._threads.run(read)

    def inspection(self, digest: Digest) -> FileInspection | None:
        return FileInspection(self._layout.blob(digest), digest) if digest in self else None

    def correct_size(self, digest: Digest, size: int) -> None:
        self._damaged.correct_size(digest, size)

    async def condemn(self, digest: Digest, reason: str, *, seen: os.stat_result | None = None) -> None:
        await self._damaged.condemn(digest, reason, seen)

    # Storing

    async def put(self, digest: Digest, content: bytes) -> None:
        async with self._puts.hold(digest):  # a second file could be committed while the first is being evicted
            if digest not in self:
                await self._write(digest, content)

    async def _write(self, digest: Digest, content: bytes) -> None:
        await self._require_writable()
        await self.reserve(len(content))
        committed = False

        def write() -> None:
            nonlocal committed
            self._put(digest, content)
            committed = True

        try:
            with self.health.writing():
                try:
                    await self._threads.run(write)
                except DiskFull:
                    await self._space.free(len(content))
                    await self._threads.run(write)
            self.health.mended()
        finally:
            self._inventory.reserve(-len(content))
            if committed:  # also if the caller was cancelled
                self._add(digest, len(content))

    def _put(self, digest: Digest, content: bytes) -> None:
        path = self._layout.put(next(self._numbers))
        with storage_errors(f"{digest} can't be stored"):
            try:
                with open(path, "xb", buffering=0) as file:
                    left = memoryview(content)
                    while left:
                        left = left[file.write(left) :]
                    self._layout.commit(file.fileno(), path, digest)
            except OSError:
                with suppress(FileNotFoundError):
                    os.unlink(path)
                raise

    @asynccontextmanager
    async def ingest(self, digest: Digest) -> AsyncIterator[DiskIngest]:
        # Two writers of one file, such as an import and a pull, would each verify bytes that the other overwrites.
        async with self._writers.hold(digest), self._ingest(digest) as ingest:
            yield ingest

    @asynccontextmanager
    async def _ingest(self, digest: Digest) -> AsyncIterator[DiskIngest]:
        await self._require_writable()
        async with self._space.lock:  # an eviction may be about to remove what an earlier attempt left
            kept = self._space.kept.pop(digest, 0)
        ingest = DiskIngest(digest, self._layout, self._threads, self._space, self.health, kept=kept)
        self._space.ingests.add(ingest)
        try:
            await ingest.open()
            yield ingest
        finally:
            try:
                await ingest.close()
            except StorageFailed as error:
                ingest.written = ingest.reserved  # a file that can't be removed takes its space
                self.health.failed(error)
            finally:
                self._space.ingests.discard(ingest)
                self._inventory.reserve(-ingest.reserved)
                if ingest.committed:
                    self._add(digest, ingest.written)
                elif ingest.written:
                    self._space.keep(digest, ingest.written)

    def _add(self, digest: Digest, size: int) -> None:
        """Count a blob that was just committed. It is about to be used, with what it references."""
        self._damaged.replaced(digest)
        self._inventory.add(digest, size, now=time.time())
        self.use(digest)

    # Space

    async def has_space(self, size: int) -> bool:
        try:
            await self._require_writable()
            with self.health.writing():  # a directory that is gone must be tried again, not only passed by
                return await self._space.can_reserve(size)
        except StorageFailed:
            return False

    async def reserve(self, size: int) -> None:
        with self.health.writing():
            await self._space.reserve(size)

    async def discard(self, digest: Digest, *, unused_since: float | None = None) -> int:
        return await self._space.discard(digest, unused_since)

    async def forget_ingests(self, *, older_than: float) -> None:
        await self._space.forget_kept(older_than=older_than)

    async def flush(self) -> None:
        await self._usage.write()

    # index.json

    async def read_index(self) -> bytes | None:
        return await self._threads.run(self._layout.read_index)

    async def write_index(self, content: bytes) -> None:
        await self._threads.run(partial(self._layout.write_index, content))

    # A directory that can't be written, or was replaced by another

    def failed(self, error: StorageFailed) -> None:
        self.health.failed(error)

    async def _require_writable(self) -> None:
        """Raise StorageFailed if the directory can't be written."""
        if self.health.is_retry_due:
            with suppress(DiskFull):  # eviction may free enough
                await self.repair()
        self.health.require_writable()

    async def repair(self) -> None:
        """Try a directory that could not be written: create what is missing, and reload replaced directories.

        Raises:
            StorageFailed: if it still can't be written.
        """
        async with self._repairing:
            with self.health.writing():
                await self._threads.run(self._layout.create)
                await self._reload()
            self.health.mended()
            self._inventory.show_hidden(but=self._damaged.unremoved)
            await self._damaged.remove_again()

    async def _reload(self) -> None:
        """Load the directories again if they are not those that were loaded before."""
        if await self._threads.run(self._layout.identity) != self._identity:
            await self._threads.run(self._layout.lock)
            await self._load()
            log.warning("cache_reloaded", path=str(self._layout.root), blobs=len(self), bytes=self.occupied)

    async def mend(self) -> None:
        is_same = False
        with suppress(StorageFailed):
            is_same = await self._threads.run(self._layout.identity) == self._identity
        if self.health.is_retry_due or not is_same:
            await self.repair()


def _sorted(names: Sequence[str], prefix: str) -> list[str]:
    return sorted(name for name in names if name.startswith(prefix))
