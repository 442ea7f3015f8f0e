"""An inspection: one look at a blob's file from begin to end, for what the disk has damaged.

It leaves in memory what was there, and brings nothing there: what clients read now is not pushed out for it.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from mirror.oci.digest import Digest, Verifier
from mirror.storage.layout import storage_errors


class Inspection:
    """The file of one blob, open within the context. Blocking: for a thread.

    Attributes:
        is_over: whether all was read, and was right.
    """

    def __init__(self, path: str, digest: Digest, size: int | None) -> None:
        """*size*: bytes that it should have; None where only the digest tells."""
        self._path = path
        self._size = size
        self._verifier = Verifier(digest)
        self._file = -1
        self.is_over = False

    def __enter__(self) -> Self:
        """Opens it.

        Raises:
            StorageFailed: it can't be opened, which is no damage yet.
        """
        with storage_errors("a stored blob can't be read"):
            self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            # Or the kernel would read ahead, and what it read look as if clients had.
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_RANDOM)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    @property
    def seen(self) -> os.stat_result:
        """Which file was looked at: another may stand in its place by now."""
        return os.fstat(self._file)

    @property
    def at(self) -> int:
        """Bytes that were read."""
        return self._verifier.size

    def read(self, most: int) -> None:
        """Takes the next bytes, *most* at most; if there are none more, that was all.

        Raises:
            StorageFailed: the disk does not give them back.
            IntegrityError: that was all, and it is not what was stored.
        """
        with storage_errors("a stored blob can't be read"):
            piece = self._piece(most)
        if piece:
            self._verifier.feed([piece])
        else:
            self._verifier.finish(self._size)
            self.is_over = True

    def _piece(self, most: int) -> bytes:
        buffer, at = bytearray(most), self._verifier.size
        try:
            size = os.preadv(self._file, [buffer], at, os.RWF_NOWAIT)  # only what is in memory
        except OSError:  # nothing is, or the file system can't tell
            size = 0
        if size:
            return bytes(memoryview(buffer)[:size])
        piece = os.pread(self._file, most, at)
        os.posix_fadvise(self._file, at, len(piece), os.POSIX_FADV_DONTNEED)
        return piece
