"""An ingest on disk: one growing file that its readers may follow, until it is renamed to a blob."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import suppress

from mirror.errors import NoRoom
from mirror.oci.digest import Digest, Verifier
from mirror.storage.layout import Layout, storage_errors

_MOST_PIECES = 512  # below IOV_MAX (1024 on Linux)
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
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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

    async def append(self, pieces: list[memoryview]) -> None:
        coming = self.written + sum(map(len, pieces))
        if coming > self.reserved:  # a body whose size nobody announced
            await self._make_room(coming - self.reserved)
            self.reserved = coming
        await self._run(lambda: self._append(pieces))

    def _append(self, pieces: list[memoryview]) -> None:
        with storage_errors(f"{self.digest} can't be written"):
            for start in range(0, len(pieces), _MOST_PIECES):
                self._write(pieces[start : start + _MOST_PIECES])
        self._verifier.feed(pieces)

    def _write(self, pieces: list[memoryview]) -> None:
        done = os.pwritev(self._descriptor, pieces, self.written)
        self.written += done
        if done == sum(map(len, pieces)):
            return
        rest = memoryview(b"".join(pieces))[done:]
        while rest:
            done = os.pwrite(self._descriptor, rest, self.written)
            self.written += done
            rest = rest[done:]

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

    async def _run(self, work: Callable[[], None]) -> None:
        # Shielded: the descriptor must not be closed under a thread that still writes to it.
        running = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(self._threads, work))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise
