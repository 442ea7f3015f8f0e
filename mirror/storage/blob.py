"""Reading a blob from disk."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from mirror.errors import StorageFailed
from mirror.oci.digest import Digest
from mirror.storage.layout import Layout, open_file, open_regular, storage_errors

_JSON_HEAD = 16  # bytes, enough to tell JSON from an archive


class SizeDiffers(Exception):
    """The file of a blob has another size than recorded: one of them is damaged."""


class DiskBlob:
    """An open blob. The file descriptor keeps the bytes readable after the file is removed."""

    def __init__(self, size: int, descriptor: int, on_failure: Callable[[StorageFailed], None]) -> None:
        self.size = size
        self._descriptor = descriptor
        self.failed = on_failure  # a reader calls it if it can't read the blob to its end

    def fileno(self) -> int:
        return self._descriptor

    async def reach(self, offset: int) -> int:  # noqa: ARG002 - the whole content is stored
        return self.size


def opened(layout: Layout, digest: Digest, size: int) -> int:
    """Open the file of a blob of *size* bytes and return its file descriptor.

    Raises:
        FileNotFoundError: if it does not exist.
        SizeDiffers: if it has another size.
        StorageFailed: if it can't be opened.
    """
    with storage_errors("a stored blob can't be read"):
        try:
            descriptor, status = open_file(layout.blob(digest))
        except FileNotFoundError as gone:
            missing = gone
        else:
            if status.st_size == size:
                return descriptor
            os.close(descriptor)
            raise SizeDiffers(f"the file has {status.st_size} bytes instead of {size}")
    raise missing


def close_opened(opening: asyncio.Future[int]) -> None:
    """Close the file descriptor that a thread opened for a caller that was cancelled. A callback of the future."""
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result())


def document(path: str) -> bytes:
    """Return the content of a file that can be JSON; nothing for another file."""
    try:
        with open_regular(path) as file:
            head = file.read(_JSON_HEAD)
            return head + file.read() if head.lstrip().startswith(b"{") else b""
    except OSError:
        return b""
