"""Downloads: one for each digest, owned by the mirror, followed by any number of readers.

A download is a task that fills an ingest. Its readers read the same growing file, each at its own pace, and may come
and go: nothing they do changes it. Its law: the last bytes are not to be had before all of them are verified, so that
no client can take wrong bytes for a whole blob.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import structlog

from mirror.errors import (
    IntegrityError,
    MirrorError,
    SizeMismatch,
    StorageFailed,
    UpstreamDisconnected,
    UpstreamUnavailable,
)
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest, Verifier
from mirror.oci.ranges import Span
from mirror.primitives.buffer_ring import BufferRing
from mirror.storage.protocols import BlobStore, Ingest

_WITHHELD = 64 * 2**10  # bytes at the end that wait for the verification
_FRUITLESS = 5  # tries in a row that brought no byte
_PAUSES = (0.1, 2.0)  # seconds before another try: the first, and the longest
_NEAR = 2**20  # bytes; a separate request would take no less time
_UNKNOWN_RATE = 64 * 2**20  # bytes; few uplinks transfer more while a client waits
_PATIENCE = 2.0  # seconds a reader waits for a byte far ahead; SOCI gives up after 3

log = structlog.get_logger()


class OriginStream(Protocol):
    """A blob's bytes as they come from wherever they come from."""

    start: int
    size: int | None

    async def read_into(self, buffer: memoryview) -> int: ...


Source = Callable[[Span | None], AbstractAsyncContextManager[OriginStream]]
"""Opens one digest's content, from some offset on if a span is given. Upstream today; another mirror one day."""


@dataclass(frozen=True, slots=True)
class Handoff:
    """Where a download ended that could not be stored on: the verification so far, and what was verified last.

    Attributes:
        withheld: bytes that are in the verification, and that readers did not get yet.
    """

    verifier: Verifier
    withheld: bytes


def is_far(ahead: int, *, received: int, seconds: float, patience: float) -> bool:
    """Return whether a download needs longer than *patience* seconds for *ahead* further bytes, at its rate so far.

    Args:
        received: bytes received within *seconds*, which count from the first byte.
    """
    if ahead <= _NEAR:
        return False
    return ahead * seconds > patience * received if received else ahead > _UNKNOWN_RATE


class Download:
    """One blob on its way; for those who follow it, something to read (see Readable)."""

    def __init__(self, digest: Digest, asker: Hashable) -> None:
        self.digest = digest
        self.asker = asker
        self._size: int | None = None
        self._arrived = 0  # bytes in the file
        self._came = 0  # bytes that upstream sent
        self._first_at = 0.0
        self._descriptor = -1
        self._users = 1  # the task that fills it, and each follower
        self._verified = False
        self._verification: Verifier | None = None  # of what is in the file, where the rest can't be stored
        self._failure: MirrorError | None = None
        self._changed = asyncio.Event()

    @property
    def is_verified(self) -> bool:
        """Whether all bytes are there and right: what is left is to make them outlast a power failure."""
        return self._verified

    @property
    def has_failed(self) -> bool:
        """Whether no more bytes will come; what it leaves is being put away."""
        return self._failure is not None

    @property
    def is_sized(self) -> bool:
        return self._size is not None

    @property
    def size(self) -> int:
        assert self._size is not None, "known when the download has begun"  # noqa: S101
        return self._size

    def fileno(self) -> int:
        return self._descriptor

    async def begun(self) -> None:
        """Waits until the size is known and the first bytes are here, or all of them if upstream told no size.

        Raises:
            MirrorError: why they will not come. NoSpace: they will, but can't be stored.
        """
        while not (self._verified or (self._size is not None and self._arrived)):
            await self._change()

    async def reach(self, offset: int) -> int:
        while True:
            if self._verified:
                return self._arrived
            if self._readable > offset:
                return self._readable
            await self._change()

    @property
    def _readable(self) -> int:
        return min(self._arrived, max(0, self.size - _WITHHELD))

    def rest(self, offset: int) -> Handoff | None:
        """What is needed to pass on the rest from *offset* on, after `reach` has raised StorageFailed.

        Returns:
            None for a reader that was not at the end of what could be read: it can't verify what it gets.
        """
        if self._verification is None or offset != self._readable:
            return None
        withheld = os.pread(self._descriptor, self._arrived - offset, offset) if self._arrived > offset else b""
        return Handoff(self._verification.copy(), withheld) if len(withheld) == self._arrived - offset else None

    def is_far(self, offset: int) -> bool:
        """Whether waiting for *offset* would take longer than a client does."""
        seconds = time.monotonic() - self._first_at
        return not self._verified and is_far(
            offset - self._arrived, received=self._came, seconds=seconds, patience=_PATIENCE
        )

    async def _change(self) -> None:
        if self._failure is not None:
            raise self._failure.with_traceback(None)  # it is raised to each follower, and would keep all their frames
        await self._changed.wait()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def join(self) -> None:
        self._users += 1

    def leave(self) -> None:
        """Closes the file behind the last one: it outlives the task while anybody reads it."""
        self._users -= 1
        if not self._users and self._descriptor >= 0:
            os.close(self._descriptor)

    # What follows is for the task that fills the download.

    @property
    def is_open(self) -> bool:
        """Whether upstream has answered once."""
        return self._descriptor >= 0

    def opened(self, ingest: Ingest, size: int | None) -> None:
        """Upstream has answered, and told the size or not; the ingest holds what there is."""
        if not self.is_open:
            self._descriptor = os.dup(ingest.fileno())
        self._size = size
        self.advanced(ingest.written)

    def came(self, size: int) -> None:
        """Upstream sent so many bytes more."""
        self._first_at = self._first_at or time.monotonic()
        self._came += size

    def advanced(self, arrived: int) -> None:
        """So many bytes are in the file."""
        self._arrived = arrived
        self._announce()

    def verified(self) -> None:
        """All bytes are there, and right."""
        self._size = self._arrived
        self._verified = True
        self._announce()

    def unstored(self, verification: Verifier) -> None:
        """What is in the file is all that will be; who follows may get the rest elsewhere."""
        self._verification = verification

    def failed(self, failure: MirrorError) -> None:
        """No more bytes will come."""
        self._failure = failure
        self._announce()


class Downloads:
    """All downloads under way. Ends with them: leaving the context cancels what runs, and keeps what has arrived."""

    def __init__(self, store: BlobStore, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._running: dict[Digest, Download] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        metrics.downloads_running.set_function(lambda: len(self._running))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for download in self._running.values():  # of tasks that were cancelled before they began
            download.failed(UpstreamUnavailable("the mirror is shutting down", retry_after=5))
            download.leave()
        self._running.clear()

    def __contains__(self, digest: object) -> bool:
        """Whether *digest* is on its way. What has failed has nothing for those who come now."""
        return digest in self._running and not self._running[digest].has_failed

    def size(self, digest: Digest) -> int | None:
        """Bytes of a blob that is on its way; None where it isn't, or upstream has not told yet."""
        return self._running[digest].size if digest in self and self._running[digest].is_sized else None

    def is_asked_by(self, digest: Digest, asker: Hashable) -> bool:
        """Whether the download of *digest* is under way in that one's name."""
        download = self._running.get(digest)
        return download is not None and download.asker == asker

    def has_whole(self, digest: Digest) -> bool:
        """Whether the download of *digest* is about to become a blob."""
        download = self._running.get(digest)
        return download is not None and download.is_verified

    async def settle(self, digest: Digest) -> None:
        """Waits until the download of *digest* has become a blob, or nothing; returns at once where there is none."""
        while digest in self._running:
            await self._put_away(digest)

    async def _put_away(self, digest: Digest) -> None:
        """Waits for the end of the one download of *digest* that there is now, with all that it leaves."""
        await asyncio.wait([task for task in self._tasks if task.get_name() == f"download {digest}"])

    @asynccontextmanager
    async def follow(
        self, digest: Digest, source: Source, size: int | None, *, asker: Hashable = None
    ) -> AsyncIterator[Download]:
        """Joins the download of *digest*, or begins it.

        Args:
            asker: in whose name upstream is asked, if this begins the download.
            source: where the bytes are to be had, if this begins the download.
            size: bytes, as far as a manifest told; None if none did.

        Raises:
            MirrorError: it failed before its first byte. NoSpace: it can't be stored, but passed through.
        """
        while digest in self._running and digest not in self:
            await self._put_away(digest)
        download = self._running.get(digest) or self._begin(digest, source, size, asker)
        download.join()
        try:
            async with self._store.hold(digest):
                await download.begun()
                yield download
        finally:
            download.leave()

    def _begin(self, digest: Digest, source: Source, size: int | None, asker: Hashable) -> Download:
        download = Download(digest, asker)
        self._running[digest] = download
        task = asyncio.create_task(self._run(download, source, size), name=f"download {digest}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return download

    async def _run(self, download: Download, source: Source, size: int | None) -> None:
        """Never raises, but for cancellation: what fails is told to those who follow."""
        try:
            async with self._store.ingest(download.digest) as ingest:
                await self._fill(download, ingest, source, size)
                download.verified()
                await ingest.commit()
        except StorageFailed as error:
            log.info("download_not_stored", digest=str(download.digest), reason=str(error))  # the store warns of it
            download.failed(error)
        except MirrorError as error:
            log.warning("download_failed", digest=str(download.digest), reason=str(error), error=type(error).__name__)
            download.failed(error)
        except asyncio.CancelledError:
            download.failed(UpstreamUnavailable("the mirror is shutting down", retry_after=5))
            raise
        except Exception as error:
            log.exception("download_crashed", digest=str(download.digest))
            download.failed(MirrorError(f"the mirror failed over {download.digest}: {type(error).__name__}"))
        finally:
            # Only now: the ingest has become a blob or is closed, so whoever comes next finds the one or begins anew.
            del self._running[download.digest]
            download.leave()

    async def _fill(self, download: Download, ingest: Ingest, source: Source, size: int | None) -> None:
        """Brings all bytes into the ingest, over as many interruptions as upstream makes while it still delivers."""
        fruitless, pause = 0, _PAUSES[0]
        while True:
            before = ingest.written
            size = download.size if download.is_sized else size
            try:
                await self._take(download, ingest, source, size)
            except IntegrityError as error:
                download.failed(error)  # before its file is emptied: who is still reading learns why, and nobody joins
                ingest.restart()
                raise
            except StorageFailed:
                download.unstored(ingest.verification())
                raise
            except (UpstreamDisconnected, UpstreamUnavailable) as error:
                fruitless = 0 if ingest.written > before else fruitless + 1
                if not download.is_open or fruitless >= _FRUITLESS:
                    raise
                log.info("download_resumes", digest=str(download.digest), at=ingest.written, reason=str(error))
                await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter
                pause = _PAUSES[0] if not fruitless else min(2 * pause, _PAUSES[1])
            else:
                return

    async def _take(self, download: Download, ingest: Ingest, source: Source, size: int | None) -> None:
        """One connection's worth of bytes.

        Raises:
            UpstreamDisconnected: there are more to come.
            IntegrityError: they are not what was promised.
        """
        # Of what is all here there is nothing more to ask for, but whoever asks has to be let: for the last byte.
        begin = ingest.written - ingest.is_complete
        span = Span(begin, begin) if begin else None
        async with source(span) as body:
            total = size if body.size is None else body.size
            if download.is_sized and total != download.size:  # which is what readers were promised
                raise SizeMismatch(
                    f"upstream says now that {download.digest} has {total} bytes, and not {download.size}"
                )
            if total is not None:
                await ingest.reserve(total)
            download.opened(ingest, total)
            belt = BufferRing()
            writing = asyncio.create_task(self._write(download, ingest, belt))
            try:
                await self._read(download, body, belt, skip=ingest.written - body.start, most=total)
            finally:
                belt.stop()
                await writing  # what came before a cut is kept
            if total is not None and ingest.written < total:
                raise UpstreamDisconnected(f"{download.digest} ended after {ingest.written} of {total} bytes")
            ingest.verify(total)

    async def _read(
        self, download: Download, body: OriginStream, belt: BufferRing, *, skip: int, most: int | None
    ) -> None:
        """Takes bytes from upstream while others are hashed and written; *skip* bytes are here already."""
        at = body.start
        while (buffer := await belt.empty()) is not None:
            size = await body.read_into(buffer)
            if not size:
                return
            download.came(size)
            at += size
            if most is not None and at > most:
                raise SizeMismatch(f"upstream sends more than the {most} bytes of {download.digest}")
            belt.put(buffer, buffer[min(skip, size) : size])
            skip -= min(skip, size)

    async def _write(self, download: Download, ingest: Ingest, belt: BufferRing) -> None:
        try:
            while (filled := await belt.filled()) is not None:
                buffer, content = filled
                await ingest.append(content)
                belt.give_back(buffer)
                download.advanced(ingest.written)
        finally:
            belt.stop()  # if the disk fails, reading has to stop too
