"""Ingest on disk: one growing file, which readers may follow, until it is renamed to a blob.

`Verifier` of `oci/digest` hashes the bytes while they are written, and compares the digest before the rename.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import structlog

from mirror.errors import DiskFull, NoSpace, StorageFailed
from mirror.oci.digest import Digest, Verifier
from mirror.storage.disk_health import DiskHealth
from mirror.storage.layout import Layout, NotRegular, open_file, storage_errors
from mirror.storage.space import Space
from mirror.storage.threads import DiskThreads

_REREAD = 2**20
_ATTEMPTS = 3  # to write to a full disk: other programs may take the space that was freed
log = structlog.get_logger()


class DiskIngest:
    """The content of one digest while it is received. Disk and hash work runs on *threads*; one call at a time.

    Attributes:
        reserved: bytes of space that are reserved for it.
        committed: whether it has become a blob.
        void: whether the bytes can't be continued: the disk did not take the next ones.
    """

    def __init__(
        self, digest: Digest, layout: Layout, threads: DiskThreads, space: Space, health: DiskHealth, *, kept: int
    ) -> None:
        self.digest = digest
        self.reserved = kept
        self.committed = False
        self.void = False
        self.written = 0
        self._path = layout.ingest(digest)
        self._layout = layout
        self._threads = threads
        self._space = space
        self._health = health
        self._verifier = Verifier(digest)
        self._descriptor = -1
        self._is_sized = False

    def fileno(self) -> int:
        return self._descriptor

    async def open(self) -> None:
        """Open the file, and verify the bytes of an earlier attempt.

        Raises:
            StorageFailed: if the file can't be created, read or written.
        """
        with self._void_on_failure():
            try:
                await self._threads.run_all(self._open)
            except DiskFull:
                await self._space.free(_REREAD)  # a new name alone may need a block
                await self._threads.run_all(self._open)

    @contextmanager
    def _void_on_failure(self) -> Iterator[None]:
        try:
            yield
        except StorageFailed as error:
            self.void = True
            self._health.failed(error)
            raise

    def _open(self) -> None:
        with storage_errors(f"{self.digest} can't be stored"):
            self._descriptor = self._opened()
            while self.written < self.reserved:
                piece = os.pread(self._descriptor, _REREAD, self.written)
                if not piece:
                    break
                self._verifier.feed([piece])
                self.written += len(piece)

    def _opened(self) -> int:
        """Return a file descriptor of the file, which is made writable or replaced if it can't be written."""
        flags = os.O_RDWR | os.O_CREAT | (0 if self.reserved else os.O_TRUNC)
        try:
            return open_file(self._path, flags)[0]
        except NotRegular as error:
            reason = error.strerror
        except PermissionError as error:
            reason = error.strerror
            with suppress(OSError):  # a commit made it read-only, and was killed before the rename
                _make_writable(self._path)
                return open_file(self._path, flags)[0]
        with suppress(FileNotFoundError):
            os.unlink(self._path)  # a link itself; all names in this directory are the mirror's
            log.warning("ingest_replaced", path=self._path, reason=reason)
        return open_file(self._path, flags | os.O_EXCL)[0]

    async def close(self) -> None:
        """Close the file; remove it if no download can resume it.

        Raises:
            StorageFailed: if it can't be removed.
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
            self.written = 0  # another program removed it

    @property
    def is_complete(self) -> bool:
        return self.written > 0 and self._verifier.is_complete

    def verification(self) -> Verifier:
        return self._verifier.copy()

    async def reserve(self, size: int) -> None:
        self._is_sized = True
        if size > self.reserved:
            try:
                await self._space.reserve(size - self.reserved)
            except NoSpace as error:
                raise NoSpace(f"{self.digest} is not stored: {error}", size=size) from error
            self.reserved = size

    async def append(self, content: memoryview) -> None:
        start, end = self.written, self.written + len(content)
        if end > self.reserved:
            if self._is_sized:
                await self._space.reserve(end - self.reserved)
            else:
                await self._space.reserve_growing(end - self.reserved, self.reserved)
            self.reserved = end
        before = self._verifier.copy()
        try:
            # Writing and hashing take about the same time, and are independent.
            await self._threads.run_all(partial(self._write, start, content), partial(self._verifier.feed, [content]))
        except DiskFull as full:
            if not await self._is_written_again(start, content):
                self._give_up(start, before, full)
                raise
        except StorageFailed as error:
            self._give_up(start, before, error)
            raise

    async def _is_written_again(self, start: int, content: memoryview) -> bool:
        """Free space on a disk that other programs have filled, and write the rest. Return whether that succeeded."""
        for _ in range(_ATTEMPTS):
            with suppress(DiskFull):
                try:
                    await self._space.free(self.reserved - self.written)
                except StorageFailed:
                    return False
                await self._threads.run_all(partial(self._write, start, content))
                return True
        return False

    def _give_up(self, start: int, before: Verifier, error: StorageFailed) -> None:
        """Restore the state before the content that could not be written. The ingest takes no more."""
        self.written, self._verifier, self.void = start, before, True
        self._health.failed(error)

    def _write(self, start: int, content: memoryview) -> None:
        content = content[self.written - start :]
        with storage_errors(f"{self.digest} can't be written"):
            while content:
                done = os.pwrite(self._descriptor, content, self.written)
                self.written += done
                content = content[done:]

    def verify(self, size: int | None) -> None:
        self._verifier.finish(size)

    async def commit(self) -> None:
        with self._void_on_failure():
            await self._threads.run_all(self._commit)
        self._health.mended()

    def _commit(self) -> None:
        with storage_errors(f"{self.digest} can't be committed"):
            self._layout.commit(self._descriptor, self._path, self.digest)
            self.committed = True  # on this thread: the caller may be cancelled, and the blob exists all the same

    def restart(self) -> None:
        self._verifier = Verifier(self.digest)
        self.written = 0
        if self._descriptor >= 0:
            with storage_errors(f"{self.digest} can't be restarted"):
                os.ftruncate(self._descriptor, 0)


def _make_writable(path: str) -> None:
    descriptor, _ = open_file(path)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
