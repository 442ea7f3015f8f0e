"""Inspection of a blob: reads its file from beginning to end and verifies it, without changing the page cache.

Pages that are in memory stay there, and others are not brought there: the blobs that clients read are not displaced.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from mirror.oci.digest import Digest, Verifier
from mirror.storage.layout import open_file, storage_errors


class FileInspection:
    """The inspection of the file at *path*; see `mirror.storage.protocols.Inspection`."""

    def __init__(self, path: str, digest: Digest) -> None:
        self._path = path
        self._verifier = Verifier(digest)
        self._file = -1
        self.is_over = False

    def __enter__(self) -> Self:
        with storage_errors("a stored blob can't be read"):
            self._file, _ = open_file(self._path)
            # Without this the kernel would read ahead, and its pages would look like pages that clients read.
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_RANDOM)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    @property
    def seen(self) -> os.stat_result:
        return os.fstat(self._file)

    @property
    def at(self) -> int:
        return self._verifier.size

    def read(self, limit: int) -> None:
        with storage_errors("a stored blob can't be read"):
            piece = self._piece(limit)
        if piece:
            self._verifier.feed([piece])
        else:
            self._verifier.finish(None)  # its digest decides: a recorded size may be wrong
            self.is_over = True

    def _piece(self, limit: int) -> bytes:
        buffer, at = bytearray(limit), self._verifier.size
        try:
            size = os.preadv(self._file, [buffer], at, os.RWF_NOWAIT)  # only pages that are in memory
        except OSError:  # none is, or the file system does not support the flag
            size = 0
        if size:
            return bytes(memoryview(buffer)[:size])
        piece = os.pread(self._file, limit, at)
        os.posix_fadvise(self._file, at, len(piece), os.POSIX_FADV_DONTNEED)
        return piece
