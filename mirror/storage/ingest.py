"""An ingest on disk: one growing file that its readers may follow, until it is renamed to a blob."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

from mirror.errors import DiskFull, NoSpace, StorageFailed
from mirror.oci.digest import Digest, Verifier
from mirror.storage.disk_health import DiskHealth
from mirror.storage.layout import Layout, storage_errors
from mirror.storage.space import Space
from mirror.storage.threads import DiskThreads

_REREAD = 2**20
_TRIES = 3  # to write on a full disk: others may take the room that was made


class DiskIngest:
    """Bytes of one digest on their way in. Disk and hash work runs on *threads*; one call at a time.

    Attributes:
        reserved: bytes of room that were made for it.
        committed: whether it has become a blob.
        void: whether what arrived can't be gone on with: the disk would not take the next bytes.
    """

    def __init__(
        self, digest: Digest, layout: Layout, threads: DiskThreads, room: Space, condition: DiskHealth, *, kept: int
    ) -> None:
        self.digest = digest
        self.reserved = kept
        self.committed = False
        self.void = False
        self.written = 0
        self._path = layout.ingest(digest)
        self._layout = layout
        self._threads = threads
        self._room = room
        self._condition = condition
        self._verifier = Verifier(digest)
        self._descriptor = -1
        self._is_sized = False

    def fileno(self) -> int:
        return self._descriptor

    async def open(self) -> None:
        """Opens the file, and takes what an earlier try left in it into the verification.

        Raises:
            StorageFailed
        """
        with self._giving_up():
            try:
                await self._threads.run_all(self._open)
            except DiskFull:
                await self._room.relieve(_REREAD)  # for its name, if for nothing else
                await self._threads.run_all(self._open)

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except StorageFailed as error:
            self.void = True
            self._condition.failed(error)
            raise

    def _open(self) -> None:
        with storage_errors(f"{self.digest} can't be stored"):
            begin = 0 if self.reserved else os.O_TRUNC
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | begin, 0o600)
            while self.written < self.reserved:
                piece = os.pread(self._descriptor, _REREAD, self.written)
                if not piece:
                    break
                self._verifier.feed([piece])
                self.written += len(piece)

    async def close(self) -> None:
        """Gives the file back; removes it if nothing can go on with it.

        Raises:
            StorageFailed: it can't be removed.
        """
        await self._threads.run_all(self._close)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if not self.committed and (self.void or not self.written):
            with storage_errors(f"{self._path} can't be removed"), suppress(FileNotFoundError):
                os.unlink(self._path)
            self.written = 0
        elif not self.committed and not os.path.exists(self._path):
            self.written = 0  # somebody removed it

    @property
    def is_complete(self) -> bool:
        return self.written > 0 and self._verifier.is_complete

    def verification(self) -> Verifier:
        return self._verifier.copy()

    async def reserve(self, size: int) -> None:
        self._is_sized = True
        if size > self.reserved:
            try:
                await self._room.make(size - self.reserved)
            except NoSpace as error:
                raise NoSpace(f"{self.digest} is not stored: {error}", size=size) from error
            self.reserved = size

    async def append(self, content: memoryview) -> None:
        begin, coming = self.written, self.written + len(content)
        if coming > self.reserved:
            if self._is_sized:
                await self._room.make(coming - self.reserved)
            else:
                await self._room.take_growing(coming - self.reserved, self.reserved)
            self.reserved = coming
        before = self._verifier.copy()
        try:
            # Writing and hashing take about as long as each other, and neither needs the other.
            await self._threads.run_all(partial(self._write, begin, content), partial(self._verifier.feed, [content]))
        except DiskFull as full:
            if not await self._is_written_again(begin, content):
                self._give_up(begin, before, full)
                raise
        except StorageFailed as error:
            self._give_up(begin, before, error)
            raise

    async def _is_written_again(self, begin: int, content: memoryview) -> bool:
        """Makes room on a disk that others have filled, and writes what it did not take."""
        for _ in range(_TRIES):
            with suppress(DiskFull):
                try:
                    await self._room.relieve(self.reserved - self.written)
                except StorageFailed:
                    return False
                await self._threads.run_all(partial(self._write, begin, content))
                return True
        return False

    def _give_up(self, begin: int, before: Verifier, error: StorageFailed) -> None:
        """Goes back to before the content that could not be written, and leaves it at that."""
        self.written, self._verifier, self.void = begin, before, True
        self._condition.failed(error)

    def _write(self, begin: int, content: memoryview) -> None:
        content = content[self.written - begin :]
        with storage_errors(f"{self.digest} can't be written"):
            while content:
                done = os.pwrite(self._descriptor, content, self.written)
                self.written += done
                content = content[done:]

    def verify(self, size: int | None) -> None:
        self._verifier.finish(size)

    async def commit(self) -> None:
        with self._giving_up():
            await self._threads.run_all(self._commit)
        self._condition.mended()

    def _commit(self) -> None:
        with storage_errors(f"{self.digest} can't be committed"):
            os.fchmod(self._descriptor, 0o444)
            os.fsync(self._descriptor)
            self._layout.publish(self._path, self.digest)
            self.committed = True  # here: whoever waits for it may be cancelled, and the blob is there all the same

    def restart(self) -> None:
        self._verifier = Verifier(self.digest)
        self.written = 0
        if self._descriptor >= 0:
            with storage_errors(f"{self.digest} can't be begun anew"):
                os.ftruncate(self._descriptor, 0)
