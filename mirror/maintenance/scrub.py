"""Scrub: reads and verifies all blobs one by one, at a limited rate, and removes damaged ones.

It proceeds in the order of hex digits and records its position, so that a restart does not begin again.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import partial

from mirror.errors import IntegrityError, StorageFailed
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.storage.protocols import BlobStore, FactStore, Inspection
from mirror.storage.threads import DiskThreads

_READS = 8  # a second
_SIZES = (4096, 2**20)  # bytes of the smallest read, and of the largest
_OPENING = 2**16  # bytes; opening a file takes the time of reading these
_PAUSE = 60.0  # seconds between two rounds
_RECORD_INTERVAL = 10.0  # seconds


class Scrub:
    """Searches the blobs of one store for damage, *rate* bytes a second."""

    def __init__(self, store: BlobStore, facts: FactStore, metrics: Metrics, *, rate: int) -> None:
        self._store = store
        self._facts = facts
        self._metrics = metrics
        self._rate = rate
        self._read_size = min(max(rate // _READS, _SIZES[0]), _SIZES[1])
        self._recorded_at = time.monotonic()

    async def run(self) -> None:
        """Inspect all blobs, round after round, until cancelled."""
        with DiskThreads.running(1, "scrub") as threads:
            while True:
                async for digest in self._store.digests(after=await self._facts.scrubbed()):
                    await self._check(digest, threads)
                    await self._record(digest)
                await self._facts.keep_scrubbed(None)
                await asyncio.sleep(_PAUSE)

    async def _record(self, digest: Digest) -> None:
        if time.monotonic() > self._recorded_at + _RECORD_INTERVAL:
            self._recorded_at = time.monotonic()
            await self._facts.keep_scrubbed(digest)

    async def _check(self, digest: Digest, threads: DiskThreads) -> None:
        """Remove the blob if it is damaged. A file that can't be opened is left to its readers."""
        inspection = self._store.inspection(digest)
        if inspection is None:
            return  # it was evicted meanwhile
        # Without a hold, which would keep `mirror gc` from a large blob for hours: an open file can be read to its end.
        with suppress(StorageFailed), inspection:
            try:
                await self._read(inspection, threads)
            except (IntegrityError, StorageFailed) as damage:
                await self._store.condemn(digest, str(damage), seen=inspection.seen)
            else:
                self._store.correct_size(digest, inspection.at)

    async def _read(self, inspection: Inspection, threads: DiskThreads) -> None:
        while not inspection.is_over:
            started, before = time.monotonic(), inspection.at
            await threads.run_all(partial(inspection.read, self._read_size))
            size = inspection.at - before
            self._metrics.scrubbed_bytes.inc(size)
            size += 0 if before else _OPENING  # or a million small blobs would take all the time of a core
            await asyncio.sleep(size / self._rate - (time.monotonic() - started))
