"""Verification: read every stored blob and compare its digest, on demand, also beside a running mirror.

The files are read here. A damaged blob is reported to the process that has locked the cache, which removes it and
fetches it again if requested: there is one commit path into the store.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from mirror.config.quantities import format_count, format_size
from mirror.errors import IntegrityError, MirrorError, StorageFailed
from mirror.oci.digest import Digest
from mirror.storage.protocols import CacheFiles
from mirror.storage.threads import DiskThreads

_CHUNK = 2**20  # bytes read at once


@dataclass(frozen=True, slots=True)
class Damage:
    """A damaged blob.

    Attributes:
        size: bytes of its file.
        device, inode: which file was read; another one may be in its place by now.
    """

    digest: Digest
    size: int
    reason: str
    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class RepairResult:
    """The result of the repair of a damaged blob, after its file was removed.

    Attributes:
        images: the images that need the blob.
        fetched_from: the repository that it was fetched from; None if it was only removed.
        failures: why it could not be fetched, one line for each repository.
    """

    images: tuple[str, ...]
    fetched_from: str | None
    failures: tuple[str, ...]


Repair = Callable[[Damage], Awaitable[RepairResult]]
"""Removes a damaged blob, and fetches it again on request. Raises MirrorError if it can't be removed."""


@dataclass(slots=True)
class Findings:
    """Result of a verification; partial until `is_whole`.

    Attributes:
        repaired: damaged blobs that were fetched again.
        failed: blobs that could not be read, or are damaged and could not be removed.
    """

    blobs: int = 0
    bytes: int = 0
    damaged: int = 0
    repaired: int = 0
    failed: int = 0
    is_whole: bool = False

    @property
    def is_good(self) -> bool:
        """Whether no damage was found, and every blob could be read."""
        return not (self.damaged or self.failed)

    def __str__(self) -> str:
        read = f"{format_count(self.blobs, 'blob')}, {format_size(self.bytes)} read: "
        damage = f"{self.damaged} damaged ({self.repaired} fetched again, {self.damaged - self.repaired} removed)"
        failed = f", {self.failed} could not be read or removed" if self.failed else ""
        return read + ("all good" if self.is_good else f"{damage}{failed}") + ("" if self.is_whole else "; stopped")


class Reporter(Protocol):
    """Shows the progress of a verification. Threads may call it."""

    def expect(self, total: int) -> None:
        """Announce the number of bytes to read."""

    def advance(self, size: int) -> None:
        """Count *size* bytes as read."""

    def say(self, line: str) -> None:
        """Show one line of text."""


class CacheVerification:
    """One verification of a cache directory."""

    def __init__(self, files: CacheFiles, repair: Repair, reporter: Reporter, *, jobs: int) -> None:
        """*jobs*: the number of blobs to read at the same time."""
        self._files = files
        self._repair = repair
        self._reporter = reporter
        self._jobs = jobs
        self._stopped = threading.Event()
        self.findings = Findings()

    async def run(self) -> None:
        """Read every blob, and report and repair damage.

        Raises:
            StorageFailed: if the directory can't be read.
        """
        blobs = sorted(self._files.blobs(), key=lambda blob: str(blob[0]))
        self._reporter.expect(sum(status.st_size for _, status in blobs))
        with DiskThreads.running(self._jobs, "verify") as threads:
            waiting = iter(blobs)

            async def verify_next() -> None:
                for digest, status in waiting:
                    damage = await self._verify(digest, status.st_size, threads)
                    if damage is not None:
                        await self._report_and_repair(damage)

            async with asyncio.TaskGroup() as tasks:
                for _ in range(self._jobs):
                    tasks.create_task(verify_next())
        self.findings.is_whole = True

    def stop(self) -> None:
        """End the reads in progress, so that a cancelled `run` returns at once."""
        self._stopped.set()

    async def _verify(self, digest: Digest, size: int, threads: DiskThreads) -> Damage | None:
        found: list[Damage] = []
        try:
            await threads.run_all(partial(self._read, digest, size, found))
        except FileNotFoundError:
            return None  # the mirror evicted it meanwhile
        except StorageFailed as error:
            self.findings.failed += 1
            self._reporter.say(f"{digest} can't be read: {error}")
            return None
        self.findings.blobs += 1
        self.findings.bytes += size
        return found[0] if found else None

    def _read(self, digest: Digest, size: int, found: list[Damage]) -> None:
        inspection = self._files.inspection(digest)
        if inspection is None:
            raise FileNotFoundError(str(digest))
        with inspection:
            try:
                while not (inspection.is_over or self._stopped.is_set()):
                    before = inspection.at
                    inspection.read(_CHUNK)
                    self._reporter.advance(inspection.at - before)
            except (StorageFailed, IntegrityError) as error:
                reason = "its bytes have another digest" if isinstance(error, IntegrityError) else str(error)
                found.append(Damage(digest, size, reason, inspection.seen.st_dev, inspection.seen.st_ino))

    async def _report_and_repair(self, damage: Damage) -> None:
        self.findings.damaged += 1
        self._reporter.say(f"damaged: {damage.digest}, {damage.size} bytes, {damage.reason}")
        try:
            result = await self._repair(damage)
        except MirrorError as error:
            self._reporter.say(f"  can't be removed: {error}")
            self.findings.failed += 1
            return
        self._reporter.say(f"  of {', '.join(result.images) or 'no known image'}")
        for failure in result.failures:
            self._reporter.say(f"  not fetched again from {failure}")
        if result.fetched_from is None:
            self._reporter.say("  removed: the next pull fetches it again")
        else:
            self.findings.repaired += 1
            self._reporter.say(f"  fetched again from {result.fetched_from}")
