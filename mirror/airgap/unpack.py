"""Unpacking: a compressed archive has no way back, and to read it image by image is to begin anew for each of them.

So it is unpacked once, into a file without a name, where there is room for that.
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

_PIECE = 2**20
_SLOWLY = "so it is read anew for each image; import it uncompressed, and it comes in faster"
_Unpacked = gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile
_OPENERS: dict[bytes, Callable[[BinaryIO], _Unpacked]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}


@dataclass(frozen=True, slots=True)
class UnpackDirectory:
    """Where what is compressed can be unpacked.

    Attributes:
        spare: bytes that have to stay free there, beside room for the same once more: what is in it is kept there.
        told: is told where there is no room, in a line.
        advanced: is told of bytes as they are unpacked; what it raises ends that.
    """

    directory: Path
    spare: int
    told: Callable[[str], None] = lambda _: None
    advanced: Callable[[int], None] = lambda _: None


def unpacked(stream: BinaryIO, place: UnpackDirectory) -> BinaryIO | None:
    """What *stream* holds, unpacked; None where it is not compressed, or there is no room.

    Raises:
        OSError, EOFError, lzma.LZMAError, zlib.error: it is damaged.
    """
    magic = stream.read(6)
    stream.seek(0)
    opener = next((_OPENERS[known] for known in _OPENERS if magic.startswith(known)), None)
    if opener is None:
        return None
    try:
        file = TemporaryFile(dir=place.directory)  # noqa: SIM115 - it outlives the call
    except OSError as error:
        place.told(f"it can't be unpacked in {place.directory} ({error.strerror}): {_SLOWLY}")
        return None
    try:
        with opener(stream) as source:
            whole = _copied(source, file, place)
        if whole:
            file.seek(0)
            return file
    except BaseException:
        file.close()
        raise
    file.close()
    stream.seek(0)
    place.told(f"there is no room to unpack it in {place.directory}: {_SLOWLY}")
    return None


def _copied(source: _Unpacked, file: BinaryIO, place: UnpackDirectory) -> bool:
    """Whether there was room for all of it."""
    size = 0
    while piece := source.read(_PIECE):
        size += len(piece)
        disk = os.fstatvfs(file.fileno())
        if disk.f_bavail * disk.f_frsize < place.spare + size + len(piece):
            return False
        place.advanced(len(piece))
        try:
            file.write(piece)
            file.flush()
        except OSError:  # others fill the disk, or there is a quota
            return False
    return True
