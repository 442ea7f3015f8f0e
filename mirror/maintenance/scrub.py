"""The scrub: inspects all blobs in turn, slowly, and condemns what the disk has damaged.

It goes by digest and notes where it is, so that a restart does not begin it again.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import partial

from mirror.errors import IntegrityError, StorageFailed
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.storage.disk import DiskStore
from mirror.storage.inspection import Inspection
from mirror.storage.layout import Layout
from mirror.storage.ledger import DiskLedger
from mirror.storage.threads import DiskThreads

_PIECES = 8  # a second
_SIZES = (4096, 2**20)  # bytes of the smallest piece, and of the largest
_IDLE = 60.0  # seconds between two rounds
_NOTED_EVERY = 10.0  # seconds


class Scrub:
    """Looks for damage in one store, *rate* bytes a second."""

    def __init__(self, store: DiskStore, layout: Layout, ledger: DiskLedger, metrics: Metrics, *, rate: int) -> None:
        self._store = store
        self._layout = layout
        self._ledger = ledger
        self._metrics = metrics
        self._rate = rate
        self._piece = min(max(rate // _PIECES, _SIZES[0]), _SIZES[1])
        self._noted_at = time.monotonic()

    async def run(self) -> None:
        """Goes on until it is cancelled: one round through all blobs after the other."""
        with DiskThreads.running(1, "scrub") as threads:
            while True:
                last = str(await self._ledger.scrubbed() or "")
                for digest in sorted(self._store.digests(), key=str):
                    if str(digest) > last:
                        await self._check(digest, threads)
                        await self._note(digest)
                await self._ledger.keep_scrubbed(None)
                await asyncio.sleep(_IDLE)

    async def _note(self, digest: Digest) -> None:
        if time.monotonic() > self._noted_at + _NOTED_EVERY:
            self._noted_at = time.monotonic()
            await self._ledger.keep_scrubbed(digest)

    async def _check(self, digest: Digest, threads: DiskThreads) -> None:
        """Condemns the blob, if it is damaged. What can't even be opened is for its readers to find out."""
        size = self._store.size(digest)
        if size is None:
            return  # it was evicted meanwhile
        # Not held: for hours somebody's `mirror gc` would pass it over. An open file stays readable without its name.
        with suppress(StorageFailed), Inspection(self._layout.blob(digest), digest, size) as inspection:
            try:
                await self._read(inspection, threads)
            except (IntegrityError, StorageFailed) as damage:
                await self._store.condemn(digest, str(damage), seen=inspection.seen)

    async def _read(self, inspection: Inspection, threads: DiskThreads) -> None:
        while not inspection.is_over:
            began, before = time.monotonic(), inspection.at
            await threads.run_all(partial(inspection.read, self._piece))
            size = inspection.at - before
            self._metrics.scrubbed_bytes.inc(size)
            # Also after the smallest blob: opening it took the disk's time.
            await asyncio.sleep(max(size, _SIZES[0]) / self._rate - (time.monotonic() - began))
