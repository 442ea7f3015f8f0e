"""Damaged blobs: verifies a file of unexpected size, and removes the file of a blob that is damaged.

The recorded size of a blob can be wrong too, by a damaged or planted row: its digest decides.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial

import structlog

from mirror.errors import IntegrityError, StorageFailed
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.primitives.singleflight import SingleFlight
from mirror.storage.disk_health import DiskHealth
from mirror.storage.inspection import FileInspection
from mirror.storage.layout import Layout, storage_errors
from mirror.storage.lru_inventory import Inventory
from mirror.storage.protocols import UsageStore
from mirror.storage.threads import DiskThreads

_PIECE = 2**20  # bytes read at a time, so that a large file does not occupy a thread
log = structlog.get_logger()


class DamagedBlobs:
    """The damaged blobs of one store."""

    def __init__(
        self,
        layout: Layout,
        inventory: Inventory,
        facts: UsageStore,
        health: DiskHealth,
        metrics: Metrics,
        threads: DiskThreads,
    ) -> None:
        self._layout = layout
        self._inventory = inventory
        self._facts = facts
        self._health = health
        self._metrics = metrics
        self._threads = threads
        self._checks = SingleFlight[Digest, bool]()
        self._unremoved: dict[Digest, os.stat_result | None] = {}  # with the damaged file, if known

    @asynccontextmanager
    async def verifying(self) -> AsyncIterator[None]:
        """Allow verifications in this context. Those that run at its end are cancelled."""
        async with self._checks:
            yield

    async def is_intact(self, digest: Digest, problem: str) -> bool:
        """Verify the file of a blob with a *problem*: another size than recorded.

        Return True, and correct the recorded size, if it has the digest; otherwise condemn it. Concurrent callers
        share one verification, which continues if they are cancelled.

        Raises:
            StorageFailed: if the file can't be read.
        """
        is_intact, _ = await self._checks.do(digest, partial(self._check, digest, problem))
        return is_intact

    async def _check(self, digest: Digest, problem: str) -> bool:
        inspection = FileInspection(self._layout.blob(digest), digest)
        with ExitStack() as exits:
            await self._threads.run(partial(exits.enter_context, inspection))
            try:
                while not inspection.is_over:
                    await self._threads.run_all(partial(inspection.read, _PIECE))
            except IntegrityError:
                await self.condemn(digest, problem, inspection.seen)
                return False
            self.correct_size(digest, inspection.at)
            return True

    def correct_size(self, digest: Digest, size: int) -> None:
        """Record the size of a blob that was just verified."""
        recorded = self._inventory.size(digest)
        if recorded not in {None, size}:
            log.warning("blob_size_corrected", digest=str(digest), recorded=recorded, size=size)
            self._inventory.resize(digest, size)

    async def condemn(self, digest: Digest, reason: str, seen: os.stat_result | None) -> None:
        """Remove a blob, unless another file than the one that was *seen* is in its place by now.

        None for *seen* means the file that is there now.
        """
        self._inventory.hide(digest)  # first: no reader may open it any more
        self._metrics.blobs_damaged.inc()
        log.warning("blob_damaged", digest=str(digest), reason=reason)
        if seen is None:
            seen = await self._threads.run(partial(_status, self._layout.blob(digest)))
        await self._remove(digest, seen)

    async def _remove(self, digest: Digest, seen: os.stat_result | None) -> None:
        try:
            is_gone = await self._threads.run(partial(_unlink, self._layout.blob(digest), seen))
        except StorageFailed as error:
            self._unremoved[digest] = seen  # it takes its space until it can be removed
            self._health.unreadable(error)
        else:
            self.replaced(digest)
            if is_gone:
                self._inventory.remove(digest)
                self._facts.forget_content([digest])
            else:
                self._inventory.show(digest)  # it was fetched again in the meantime

    @property
    def unremoved(self) -> AbstractSet[Digest]:
        """The damaged blobs whose files could not be removed."""
        return self._unremoved.keys()

    def replaced(self, digest: Digest) -> None:
        """Note that the damaged file of a blob is gone: the right content may have replaced it."""
        self._unremoved.pop(digest, None)

    async def remove_again(self) -> None:
        """Try again to remove the files that could not be removed."""
        for digest, seen in list(self._unremoved.items()):
            if digest in self._unremoved:  # otherwise it was fetched again while others were removed
                await self._remove(digest, seen)


def _status(path: str) -> os.stat_result | None:
    with suppress(OSError):
        return os.lstat(path)
    return None


def _unlink(path: str, seen: os.stat_result | None) -> bool:
    """Remove a file, unless it is not the one that was *seen*. Return whether no file is there now."""
    with storage_errors("a damaged blob can't be removed"), suppress(FileNotFoundError):
        if seen is not None and not os.path.samestat(seen, os.lstat(path)):
            return False
        os.unlink(path)
    return True
