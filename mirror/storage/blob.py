"""A blob on disk, opened for reading."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from mirror.errors import StorageFailed
from mirror.storage.layout import storage_errors


class BlobDamaged(Exception):
    """The file of a blob is there, and is not what was stored."""


class DiskBlob:
    """A committed blob, open. The descriptor keeps the bytes whatever happens to the name."""

    def __init__(self, size: int, descriptor: int, on_failure: Callable[[StorageFailed], None]) -> None:
        self.size = size
        self._descriptor = descriptor
        self.failed = on_failure  # to be called by who could not read it to its end

    def fileno(self) -> int:
        return self._descriptor

    async def reach(self, offset: int) -> int:  # noqa: ARG002 - all of it is there
        return self.size


def opened(path: str, size: int) -> int:
    """A descriptor of the file of a blob of *size* bytes.

    Raises:
        FileNotFoundError: it is gone.
        BlobDamaged: it has another size.
        StorageFailed: it can't be opened.
    """
    with storage_errors("a stored blob can't be read"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as gone:
            missing = gone
        else:
            found = os.fstat(descriptor).st_size
            if found == size:
                return descriptor
            os.close(descriptor)
            raise BlobDamaged(f"the file has {found} bytes, and the blob had {size}")
    raise missing


def close_opened(opening: asyncio.Future[int]) -> None:
    """Closes what a thread opened for somebody who has left; a callback of the future."""
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result())
