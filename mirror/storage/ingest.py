"""An ingest on disk: one growing file that its readers may follow, until it is renamed to a blob."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial

from mirror.errors import NoRoom
from mirror.oci.digest import Digest, Verifier
from mirror.storage.layout import Layout, storage_errors

_REREAD = 2**20


class DiskIngest:
    """Bytes of one digest on their way in. Disk and hash work runs on *threads*; one call at a time."""

    def __init__(
        self,
        digest: Digest,
        layout: Layout,
        threads: Executor,
        *,
        make_room: Callable[[int], Awaitable[None]],
        kept: int,
    ) -> None:
        self.digest = digest
        self.reserved = kept
        self.committed = False
        self._path = layout.ingest(digest)
        self._layout = layout
        self._threads = threads
        self._make_room = make_room
        self._verifier = Verifier(digest)
        self._descriptor = -1
        self.written = 0

    def fileno(self) -> int:
        return self._descriptor

    async def open(self) -> None:
        """Opens the file, and takes what an earlier try left in it into the verification.

        Raises:
            StorageFailed
        """
        await self._run(self._open)

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
        """Gives the file back; removes it if it is empty."""
        await self._run(self._close)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if not self.committed and not self.written:
            with storage_errors(f"{self._path} can't be removed"), suppress(FileNotFoundError):
                os.unlink(self._path)

    async def reserve(self, size: int) -> None:
        if size > self.reserved:
            try:
                await self._make_room(size - self.reserved)
            except NoRoom as error:
                raise NoRoom(f"{self.digest} is not stored: {error}", size=size) from error
            self.reserved = size

    async def append(self, content: memoryview) -> None:
        coming = self.written + len(content)
        if coming > self.reserved:  # a body whose size nobody announced
            await self._make_room(coming - self.reserved)
            self.reserved = coming
        # Writing and hashing take about as long as each other, and neither needs the other.
        await self._run(partial(self._write, content), partial(self._verifier.feed, [content]))

    def _write(self, content: memoryview) -> None:
        with storage_errors(f"{self.digest} can't be written"):
            while content:
                done = os.pwrite(self._descriptor, content, self.written)
                self.written += done
                content = content[done:]

    def verify(self, size: int | None) -> None:
        self._verifier.finish(size)

    async def commit(self) -> None:
        await self._run(self._commit)
        self.committed = True

    def _commit(self) -> None:
        with storage_errors(f"{self.digest} can't be committed"):
            os.fchmod(self._descriptor, 0o444)
            os.fsync(self._descriptor)
            self._layout.publish(self._path, self.digest)

    def restart(self) -> None:
        self._verifier = Verifier(self.digest)
        self.written = 0
        if self._descriptor >= 0:
            with storage_errors(f"{self.digest} can't be begun anew"):
                os.ftruncate(self._descriptor, 0)

    async def _run(self, *works: Callable[[], None]) -> None:
        """Does all of it on threads, and comes back only when all of it is done.

        Also when it is cancelled: the descriptor must not be closed under a thread that still writes to it.
        """
        loop = asyncio.get_running_loop()
        running = [loop.run_in_executor(self._threads, work) for work in works]
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError:
            await asyncio.wait(running)
            raise
        for done in running:
            done.result()
