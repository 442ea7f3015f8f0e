"""Downloads: one per digest, owned by the mirror, followed by any number of readers.

A download is a task that fills an ingest. Its readers read the same growing file, each at its own pace, and may join
and leave at any time without changing the download. The last 64 KiB are withheld until the whole blob is verified, so
that no client can take wrong bytes for a complete blob.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog

from mirror.errors import ContentUnknown, Denied, IntegrityError, MirrorError, StorageFailed, UpstreamUnavailable
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest, Verifier
from mirror.oci.names import Repository
from mirror.origin import PullContext
from mirror.primitives.buffer_ring import BufferRing
from mirror.pull.origins import OriginsOf, ResumedStream, releasable
from mirror.storage.protocols import BlobStore, Ingest

_NEAR = 2**20  # bytes; a separate request would take no less time
_UNKNOWN_RATE = 64 * 2**20  # bytes; few uplinks transfer more while a client waits
_PATIENCE = 2.0  # seconds a reader waits for a byte far ahead; SOCI gives up after 3

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Handoff:
    """The state of a download that the store could not take to its end: a reader continues from here, unstored.

    Attributes:
        verifier: has hashed every byte of the file.
        withheld: bytes at the end of the file that are hashed, and that no reader has received.
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
    """One blob in progress; to its readers, content that can be read (see `Readable`)."""

    def __init__(self, digest: Digest, started_by: Repository) -> None:
        self.digest = digest
        self.started_by = started_by
        self._size: int | None = None
        self._written = 0  # bytes in the file
        self._received = 0  # bytes from the origin
        self._first_byte_at = 0.0
        self._descriptor = -1
        self._users = 1  # the task that fills it, and each reader
        self._verified = False
        self._unstorable: Verifier | None = None  # of the bytes in the file, if the rest cannot be stored
        self._failure: MirrorError | None = None
        self._changed = asyncio.Event()

    @property
    def is_verified(self) -> bool:
        """Whether every byte is received and verified; only the commit is left."""
        return self._verified

    @property
    def has_failed(self) -> bool:
        """Whether the download failed; its ingest is being closed."""
        return self._failure is not None

    @property
    def is_open(self) -> bool:
        """Whether readers may have joined: the origin has answered, and the file exists."""
        return self._descriptor >= 0

    @property
    def is_sized(self) -> bool:
        """Whether the size is known."""
        return self._size is not None

    @property
    def size(self) -> int:
        assert self._size is not None, "known once the download has started"  # noqa: S101
        return self._size

    def fileno(self) -> int:
        return self._descriptor

    async def wait_started(self) -> None:
        """Wait until the size and the first bytes are received; if no origin announces the size, for all bytes.

        Raises:
            NoSpace: if the blob cannot be stored; it can be passed through.
            MirrorError: if the download failed otherwise.
        """
        while not (self._verified or (self._size is not None and self._written)):
            await self._wait_change()

    async def reach(self, offset: int) -> int:
        while True:
            if self._verified:
                return self._written
            if self._readable > offset:
                return self._readable
            await self._wait_change()

    @property
    def _readable(self) -> int:
        return releasable(self._written, self.size)

    def handoff(self, offset: int) -> Handoff | None:
        """Return the state to continue from at *offset*, after `reach` has raised StorageFailed.

        Returns:
            None if the reader has not read everything that was readable: it could not verify the rest.
        """
        if self._unstorable is None or offset != self._readable:
            return None
        withheld = os.pread(self._descriptor, self._written - offset, offset) if self._written > offset else b""
        return Handoff(self._unstorable.copy(), withheld) if len(withheld) == self._written - offset else None

    def is_far(self, offset: int) -> bool:
        """Return whether waiting for *offset* would take longer than a client waits."""
        seconds = time.monotonic() - self._first_byte_at
        return not self._verified and is_far(
            offset - self._written, received=self._received, seconds=seconds, patience=_PATIENCE
        )

    async def _wait_change(self) -> None:
        if self._failure is not None:
            raise self._failure.with_traceback(None)  # raised to every reader, it would keep all their frames alive
        await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def join(self) -> None:
        """Count one more user of the file."""
        self._users += 1

    def leave(self) -> None:
        """Close the file after its last user: a reader may outlive the task that fills it."""
        self._users -= 1
        if not self._users and self._descriptor >= 0:
            os.close(self._descriptor)

    # For the task that fills the download.

    def open_file(self, ingest: Ingest, size: int | None) -> None:
        """Let readers open the ingest's file, after the origin answered. *size* is None if it is unknown."""
        self._descriptor = os.dup(ingest.fileno())
        self._size = size
        self.set_written(ingest.written)

    def set_size(self, size: int) -> None:
        """A later connection to the origin has announced the size."""
        if self.is_open:
            self._size = size
            self._notify()

    def received(self, count: int) -> None:
        """Record that the origin sent *count* more bytes."""
        self._first_byte_at = self._first_byte_at or time.monotonic()
        self._received += count

    def set_written(self, written: int) -> None:
        """Record that the file contains *written* bytes."""
        self._written = written
        self._notify()

    def set_verified(self) -> None:
        """Record that every byte is received and verified."""
        self._size = self._written
        self._verified = True
        self._notify()

    def set_unstorable(self, verifier: Verifier) -> None:
        """Record that the file will not grow any more: readers fetch the rest without storing it."""
        self._unstorable = verifier

    def set_failed(self, failure: MirrorError) -> None:
        """Record the failure, and raise it to all readers."""
        self._failure = failure
        self._notify()


class Downloads:
    """All downloads in progress. Leaving its context cancels them, and keeps the bytes received so far."""

    def __init__(self, store: BlobStore, origins: OriginsOf, metrics: Metrics) -> None:
        self._store = store
        self._origins = origins
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
        for download in self._running.values():  # of tasks that were cancelled before they started
            download.set_failed(UpstreamUnavailable("the mirror is shutting down", retry_after=5))
            download.leave()
        self._running.clear()

    def __contains__(self, digest: object) -> bool:
        """Return whether *digest* is being downloaded. A download that has failed has nothing for new readers."""
        return digest in self._running and not self._running[digest].has_failed

    def size(self, digest: Digest) -> int | None:
        """Return the bytes of a blob in progress; None if it is not in progress, or its size is not known yet."""
        return self._running[digest].size if digest in self and self._running[digest].is_sized else None

    def is_started_by(self, digest: Digest, starter: Repository) -> bool:
        """Return whether *starter* (a repository) started the download of *digest* that is in progress."""
        download = self._running.get(digest)
        return download is not None and download.started_by == starter

    def has_whole(self, digest: Digest) -> bool:
        """Return whether the download of *digest* is verified, and about to be committed."""
        download = self._running.get(digest)
        return download is not None and download.is_verified

    async def settle(self, digest: Digest) -> None:
        """Wait until the download of *digest* is committed or has failed; return at once if there is none."""
        while digest in self._running:
            await self._wait_closed(digest)

    async def _wait_closed(self, digest: Digest) -> None:
        """Wait for the end of the current download of *digest*, its ingest included."""
        await asyncio.wait([task for task in self._tasks if task.get_name() == f"download {digest}"])

    @asynccontextmanager
    async def follow(self, context: PullContext, digest: Digest, expected_size: int | None) -> AsyncIterator[Download]:
        """Join the download of *digest*, or start it on behalf of *context*.

        Args:
            expected_size: bytes, as a manifest states them; None if no manifest does.

        Raises:
            NoSpace: if the blob can't be stored; it can be passed through.
            MirrorError: if the download failed otherwise before its first byte.
        """
        while digest in self._running and digest not in self:
            await self._wait_closed(digest)
        download = self._running.get(digest) or self._start(context, digest, expected_size)
        download.join()
        try:
            async with self._store.hold(digest):
                await download.wait_started()
                yield download
        finally:
            download.leave()

    def _start(self, context: PullContext, digest: Digest, expected_size: int | None) -> Download:
        download = Download(digest, context.repository)
        self._running[digest] = download
        task = asyncio.create_task(self._run(download, context, expected_size), name=f"download {digest}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return download

    async def _run(self, download: Download, context: PullContext, expected_size: int | None) -> None:
        """Run a download. Raises nothing but cancellation: readers receive the failure."""
        try:
            async with self._store.ingest(download.digest) as ingest:
                await self._fill(download, ingest, context, expected_size)
                download.set_verified()
                await ingest.commit()
        except StorageFailed as error:
            log.info("download_not_stored", digest=str(download.digest), reason=str(error))  # the store warns of it
            download.set_failed(error)
        except MirrorError as error:
            log.warning("download_failed", digest=str(download.digest), reason=str(error), error=type(error).__name__)
            download.set_failed(_for_readers(error, download) if download.is_open else error)
        except asyncio.CancelledError:
            download.set_failed(UpstreamUnavailable("the mirror is shutting down", retry_after=5))
            raise
        except Exception:
            log.exception("download_crashed", digest=str(download.digest))
            download.set_failed(MirrorError(f"the download of {download.digest} crashed; the log has the reason"))
        finally:
            # Only now: the ingest is committed or closed, so the next request finds the blob or starts again.
            del self._running[download.digest]
            download.leave()

    async def _fill(self, download: Download, ingest: Ingest, context: PullContext, expected_size: int | None) -> None:
        """Copy the blob into the ingest, and verify it."""
        # If the file is already complete, request only its last byte: this still makes the origin authorize the pull.
        start = ingest.written - ingest.is_complete
        stream = ResumedStream(
            self._origins(context),
            context,
            download.digest,
            start=start,
            expected_size=expected_size,
            on_size=download.set_size,
        )
        try:
            async with stream:
                if stream.size is not None:
                    await ingest.reserve(stream.size)
                download.open_file(ingest, stream.size)
                await self._copy(download, ingest, stream, skip=ingest.written - start)
                ingest.verify(stream.size)
        except IntegrityError as error:
            download.set_failed(error)  # before the file is emptied: its readers learn why, and no new one joins
            ingest.restart()
            raise
        except StorageFailed:
            download.set_unstorable(ingest.verification())
            raise

    async def _copy(self, download: Download, ingest: Ingest, stream: ResumedStream, *, skip: int) -> None:
        """Read from the origin while earlier bytes are hashed and written; *skip* bytes are in the file already."""
        ring = BufferRing()
        reading = asyncio.create_task(self._read(download, stream, ring, skip))
        writing = asyncio.create_task(self._write(download, ingest, stream, ring))
        writing.add_done_callback(lambda _: reading.cancel())  # if the disk fails while the origin is silent
        try:
            await reading
        finally:
            ring.close()
            await writing  # bytes received before a failure are kept; a failure of the disk replaces the cancellation

    async def _read(self, download: Download, stream: ResumedStream, ring: BufferRing, skip: int) -> None:
        while (buffer := await ring.next_empty()) is not None:
            count = await stream.read_into(buffer)
            if not count:
                break
            download.received(count)
            ring.submit(buffer, buffer[min(skip, count) : count])
            skip -= min(skip, count)

    async def _write(self, download: Download, ingest: Ingest, stream: ResumedStream, ring: BufferRing) -> None:
        is_reserved = stream.size is not None
        try:
            while (filled := await ring.next_filled()) is not None:
                buffer, content = filled
                if stream.size is not None and not is_reserved:  # only a later connection announced it
                    is_reserved = True
                    await ingest.reserve(stream.size)
                await ingest.append(content)
                ring.recycle(buffer)
                download.set_written(ingest.written)
        finally:
            ring.close()  # a failed writer takes no more bytes


def _for_readers(failure: MirrorError, download: Download) -> MirrorError:
    """Return the failure of a download that has readers.

    A refusal or a 404 in the middle is an answer to the client that started the download. Other readers may have
    another login or repository, and must not see the user name in the message: each client has to ask again.
    """
    if isinstance(failure, Denied | ContentUnknown):
        upstream = download.started_by.upstream
        return UpstreamUnavailable(f"{upstream} refused the rest of {download.digest}: pull again", retry_after=1)
    return failure
