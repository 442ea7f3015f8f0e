"""Decompression of compressed archives (.gz, .bz2, .xz) into an unnamed temporary file, if the disk has enough space.

A compressed stream can't seek backwards, so reading it image by image would decompress it from the start each time.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

_CHUNK = 2**20  # bytes
_Compressed = gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile
_OPENERS: dict[bytes, Callable[[BinaryIO], _Compressed]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}


@dataclass(frozen=True, slots=True)
class UnpackDirectory:
    """Directory for decompressed archives.

    Attributes:
        spare: bytes that must remain free, in addition to the decompressed size: the import stores the content there
            once more.
        on_message: called with one line if the archive can't be decompressed there.
        on_progress: called with the number of bytes after each write. An exception from it stops the decompression.
    """

    directory: Path
    spare: int
    on_message: Callable[[str], None] = lambda _: None
    on_progress: Callable[[int], None] = lambda _: None


def unpacked(stream: BinaryIO, unpack_directory: UnpackDirectory) -> BinaryIO | None:
    """Return a temporary file with the decompressed *stream*. None if it is not compressed or space is insufficient.

    Raises:
        OSError, EOFError, lzma.LZMAError, zlib.error: if the compressed data is damaged.
    """
    magic = stream.read(6)
    stream.seek(0)
    opener = next((_OPENERS[known] for known in _OPENERS if magic.startswith(known)), None)
    if opener is None:
        return None
    try:
        file = TemporaryFile(dir=unpack_directory.directory)  # noqa: SIM115 - it outlives the call
    except OSError as error:
        unpack_directory.on_message(_slow(unpack_directory, str(error.strerror)))
        return None
    try:
        with opener(stream) as source:
            complete = _copy(source, file, unpack_directory)
        if complete:
            file.seek(0)
            return file
    except BaseException:
        file.close()
        raise
    file.close()
    stream.seek(0)
    unpack_directory.on_message(_slow(unpack_directory, "too little free space"))
    return None


def _slow(unpack_directory: UnpackDirectory, reason: str) -> str:
    return (
        f"the archive can't be decompressed to a temporary file in {unpack_directory.directory} ({reason}): each image "
        f"decompresses it again, which is slow. Decompress it before the import"
    )


def _copy(source: _Compressed, file: BinaryIO, unpack_directory: UnpackDirectory) -> bool:
    """Copy everything from *source* to *file*. Return False if the space is insufficient."""
    size = 0
    while chunk := source.read(_CHUNK):
        size += len(chunk)
        disk = os.fstatvfs(file.fileno())
        if disk.f_bavail * disk.f_frsize < unpack_directory.spare + size + len(chunk):
            return False
        unpack_directory.on_progress(len(chunk))
        try:
            file.write(chunk)
            file.flush()
        except OSError:  # another program filled the disk, or a quota is reached
            return False
    return True
