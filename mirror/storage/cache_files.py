"""The files of a cache directory, read without its lock: beside the mirror that serves from it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mirror.oci.digest import Digest
from mirror.storage.inspection import FileInspection
from mirror.storage.layout import Layout, open_regular, storage_errors

_ABSENT = {errno.ENOENT, errno.ENOTDIR}


class DiskFiles:
    """The files of the directory at *path*; see `mirror.storage.protocols.CacheFiles`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._layout = Layout(path)

    def exist(self) -> bool:
        # Other programs' image layouts have none of these, and a command must not give them one.
        return any(map(_exists, (self._layout.ledger, self._layout.ingests, self._layout.control)))

    def blobs(self) -> Iterator[tuple[Digest, os.stat_result]]:
        with storage_errors(f"the cache directory {self.path} can't be read; name another with --cache"):
            self._layout.identity()
            yield from self._layout.blobs()

    def open(self, digest: Digest) -> BinaryIO:
        with storage_errors(f"the blob {digest} can't be read"):
            return open_regular(self._layout.blob(digest))

    def inspection(self, digest: Digest) -> FileInspection | None:
        path = self._layout.blob(digest)
        return FileInspection(path, digest) if os.path.lexists(path) else None


def _exists(path: Path) -> bool:
    """Return whether *path* exists. A path without permission counts as existing: opening it gives the exact error."""
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno not in _ABSENT
    return True
