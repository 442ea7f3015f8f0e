"""Verification: all that is stored is read and checked, on demand, also beside a running mirror.

What is damaged is removed, and so comes anew when it is pulled next; or it is fetched again at once and renamed over
the damaged file, which a running mirror does not notice, as the name and the size are those that it knows.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from mirror.auth.rules import ANONYMOUS_CALLER
from mirror.config.quantities import format_count, format_size
from mirror.errors import IntegrityError, MirrorError, StorageFailed
from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.oci.ranges import Span
from mirror.origin import PullContext
from mirror.pull.unstored import UnstoredStream
from mirror.storage.fact_store import DiskFacts
from mirror.storage.inspection import Inspection
from mirror.storage.layout import Layout, storage_errors
from mirror.storage.threads import DiskThreads
from mirror.upstream.registry import Registry

_PIECE = 2**20  # bytes read at once


@dataclass(frozen=True, slots=True)
class Damage:
    """A blob that is not what it was.

    Attributes:
        size: bytes of its file.
        seen: the file that was looked at.
    """

    digest: Digest
    size: int
    reason: str
    seen: os.stat_result


@dataclass(slots=True)
class Findings:
    """What came of it so far; of all, if it is whole.

    Attributes:
        left: blobs that could not be read, or are damaged and could not be removed.
    """

    blobs: int = 0
    bytes: int = 0
    damaged: int = 0
    mended: int = 0
    left: int = 0
    is_whole: bool = False

    @property
    def is_good(self) -> bool:
        return not (self.damaged or self.left)

    def __str__(self) -> str:
        ends = f"{format_count(self.blobs, 'blob')}, {format_size(self.bytes)} read: "
        found = f"{self.damaged} damaged ({self.mended} fetched again, {self.damaged - self.mended} removed)"
        left = f", {self.left} that could not be read or removed" if self.left else ""
        return ends + (f"{found}{left}" if not self.is_good else "all good") + ("" if self.is_whole else "; stopped")


class Reporter(Protocol):
    """Shows how far a verification has come. Threads may call it."""

    def expect(self, total: int) -> None:
        """Announce the number of bytes to read."""

    def advance(self, size: int) -> None:
        """Count *size* bytes as read."""

    def say(self, line: str) -> None:
        """Show one line of text."""


class CacheVerification:
    """One look at all that one cache directory holds."""

    def __init__(
        self, layout: Layout, ledger: DiskFacts | None, registries: Mapping[str, Registry] | None, *, jobs: int
    ) -> None:
        """*ledger*: None where it can't be read. *registries*: to mend from; None where damage is only removed."""
        self._layout = layout
        self._ledger = ledger
        self._registries = registries
        self._jobs = jobs
        self._ended = threading.Event()
        self.findings = Findings()

    async def run(self, progress: Reporter) -> None:
        """Reads all, says what is damaged, and sees to it.

        Raises:
            StorageFailed: the directory can't be read.
        """
        with storage_errors(f"the cache directory {self._layout.root} can't be read; name another with --cache"):
            blobs = sorted(self._layout.blobs(), key=lambda blob: str(blob[0]))
        total = sum(status.st_size for _, status in blobs)
        progress.expect(total)
        with DiskThreads.running(self._jobs, "verify") as threads:
            waiting = iter(blobs)

            async def look() -> None:
                for digest, status in waiting:
                    damage = await self._look(digest, status.st_size, progress, threads)
                    if damage is not None:
                        await self._see_to(damage, progress)

            async with asyncio.TaskGroup() as tasks:
                for _ in range(self._jobs):
                    tasks.create_task(look())
        self.findings.is_whole = True

    def stop(self) -> None:
        """Lets go of what is being read, so that a cancelled `run` ends at once."""
        self._ended.set()

    async def _look(self, digest: Digest, size: int, progress: Reporter, threads: DiskThreads) -> Damage | None:
        found: list[Damage] = []
        try:
            await threads.run_all(partial(self._inspect, digest, size, progress, found))
        except FileNotFoundError:
            return None  # the mirror evicted it meanwhile
        except StorageFailed as error:
            self.findings.left += 1
            progress.say(f"{digest} can't be read: {error}")
            return None
        self.findings.blobs += 1
        self.findings.bytes += size
        return found[0] if found else None

    def _inspect(self, digest: Digest, size: int, progress: Reporter, found: list[Damage]) -> None:
        path = self._layout.blob(digest)
        if not os.path.exists(path):
            raise FileNotFoundError(path)
        with Inspection(path, digest, None) as inspection:
            try:
                while not (inspection.is_over or self._ended.is_set()):
                    before = inspection.at
                    inspection.read(_PIECE)
                    progress.advance(inspection.at - before)
            except (StorageFailed, IntegrityError) as error:
                found.append(Damage(digest, size, _reason(error), inspection.seen))

    async def _see_to(self, damage: Damage, progress: Reporter) -> None:
        """Removes what is damaged, or puts what is right in its place."""
        self.findings.damaged += 1
        holders, images = await self._holders(damage.digest)
        progress.say(f"damaged: {damage.digest}, {damage.size} bytes, {damage.reason}")
        progress.say(f"  of {', '.join(images) or 'no image that is known here'}")
        try:
            await self._mend(damage, holders, progress)
        except StorageFailed as error:
            progress.say(f"  can't be removed: {error}")
            self.findings.left += 1

    async def _mend(self, damage: Damage, holders: Collection[Repository], progress: Reporter) -> None:
        for repository in holders if self._registries is not None else ():
            try:
                await self._fetch(damage, repository)
            except MirrorError as error:
                progress.say(f"  not fetched again from {repository}: {error}")
            else:
                self.findings.mended += 1
                progress.say(f"  fetched again from {repository}")
                return
        await asyncio.to_thread(self._remove, damage)
        progress.say("  removed: it is fetched again when it is pulled next")

    def _remove(self, damage: Damage) -> None:
        path = self._layout.blob(damage.digest)
        with storage_errors(f"{damage.digest}"), suppress(FileNotFoundError):
            if os.path.samestat(damage.seen, os.stat(path)):  # or the mirror has fetched it meanwhile
                os.unlink(path)

    async def _fetch(self, damage: Damage, repository: Repository) -> None:
        """Brings the right content into the place of the damaged one.

        Raises:
            MirrorError
        """
        assert self._registries is not None  # noqa: S101
        registry = self._registries.get(repository.upstream)
        if registry is None:
            raise StorageFailed(f"no upstream {repository.upstream} is configured")
        path = self._layout.put(f"verify-{os.getpid()}-{damage.digest.hex[:12]}")
        try:
            async with aclosing(self._content(registry, repository, damage.digest)) as content:
                async for piece in content:
                    await asyncio.to_thread(_append, path, piece)
            await asyncio.to_thread(self._replace, path, damage.digest)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)

    def _replace(self, path: str, digest: Digest) -> None:
        with storage_errors(f"{digest} can't be stored"):
            os.chmod(path, 0o444)
            file = os.open(path, os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)
            # What a running mirror has removed meanwhile it would not count: it fetches that itself.
            if os.path.exists(self._layout.blob(digest)):
                self._layout.publish(path, digest)

    async def _content(self, registry: Registry, repository: Repository, digest: Digest) -> AsyncGenerator[bytes, None]:
        """The right bytes; the last of them come when all are verified."""
        context = PullContext(ANONYMOUS_CALLER, repository)
        if self._ledger is not None and await self._ledger.manifest(digest) is not None:
            yield (await registry.manifest(context, digest)).body
            return
        size = await registry.blob_size(context, digest)
        if size is None:
            raise StorageFailed(f"{repository.upstream} does not tell its size")
        stream = UnstoredStream([registry.origin], context, digest, Span(0, size), size)
        async with stream, aclosing(stream.pieces()) as pieces:
            async for piece in pieces:
                yield piece

    async def _holders(self, digest: Digest) -> tuple[list[Repository], list[str]]:
        """The repositories that hold it, and the images that need it, as far as the ledger knows."""
        if self._ledger is None:
            return [], []
        holders, images = [], []
        for repository, roots in (await self._ledger.all_holdings()).items():
            if digest in await self._closure(roots):
                holders.append(repository)
                tags = await self._ledger.tags(repository)
                named = [f"{repository}:{tag}" for tag, root in tags.items() if digest in await self._closure({root})]
                images.extend(named or [str(repository)])
        return holders, images

    async def _closure(self, roots: Collection[Digest]) -> set[Digest]:
        """These, and all that they reference."""
        assert self._ledger is not None  # noqa: S101
        found, new = set(roots), set(roots)
        while new:
            facts = await self._ledger.manifests(new)
            new = {one for fact in facts.values() for one in fact.references} - found
            found |= new
        return found


def _append(path: str, piece: bytes) -> None:
    with storage_errors("what was fetched again can't be stored"), open(path, "ab") as file:
        file.write(piece)


def _reason(error: MirrorError) -> str:
    return "its bytes have another digest" if isinstance(error, IntegrityError) else str(error)
