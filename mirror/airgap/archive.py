"""Archives: files by name, in a tar (in parts, or compressed) or a directory. No file of them gets a name on the disk.

What could do harm is refused when the archive is opened, before anything of it is used: names that lead outside,
devices, pipes, sockets. A link is followed only to a file of the same archive.
"""

from __future__ import annotations

import io
import lzma
import os
import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from mirror.airgap.bundle_files import first_of, parts_of, readable
from mirror.airgap.bundle_parts import PartsReader
from mirror.airgap.unpack import UnpackDirectory, unpacked
from mirror.errors import BundleInvalid

_BUFFER = 2**20
_MOST_FILES = 1_000_000
_DAMAGE = (tarfile.TarError, EOFError, OSError, ValueError, OverflowError, zlib.error, lzma.LZMAError)


class Archive(Protocol):
    """Files by name."""

    def __contains__(self, name: str) -> bool: ...

    def names(self, prefix: str) -> Iterator[str]:
        """The files whose names begin so."""

    def size(self, name: str) -> int:
        """Bytes of a file that is in the archive."""

    def open(self, name: str) -> BinaryIO:
        """A file that is in the archive, from its beginning; to be closed by the caller."""


@contextmanager
def opened(path: Path, place: UnpackDirectory | None = None) -> Iterator[Archive]:
    """The archive at *path*: a directory, a tar, or the first of a tar's parts.

    Args:
        place: where it can be unpacked as a whole if it is compressed; else it is read where it lies.

    Raises:
        BundleInvalid: it can't be read, is cut short, or holds what no archive of images holds.
    """
    files = parts_of(path)
    if files[0].is_dir():
        yield _Directory(path)
        return
    with ExitStack() as exits:
        stream: BinaryIO = exits.enter_context(io.BufferedReader(PartsReader(files), _BUFFER))
        with _read_errors(path):
            plain = None if place is None else unpacked(stream, place)
        stream = stream if plain is None else exits.enter_context(plain)
        tar = exits.enter_context(_tar(stream, path))
        with _read_errors(path):
            archive = _Tar(tar, path)
        yield archive


def content(archive: Archive, name: str, *, most: int) -> bytes:
    """All of a small file.

    Raises:
        BundleInvalid: it is not there, or has more than *most* bytes.
    """
    if name not in archive:
        raise BundleInvalid(f"the bundle has no {name}")
    if archive.size(name) > most:
        raise BundleInvalid(f"{name} in the bundle has {archive.size(name)} bytes; more than {most} are refused")
    with archive.open(name) as file:
        return file.read()


def _tar(stream: BinaryIO, path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=stream, mode="r:*")
    except _DAMAGE as error:
        first, size = first_of(path), stream.seek(0, io.SEEK_END)
        if not size:
            raise BundleInvalid(f"{path} is empty: copy it again") from error
        if first is not None:
            raise BundleInvalid(f"{path} is no archive: if it is part of a bundle, name {first.name}") from error
        raise BundleInvalid(
            f"{path} is no archive of images: a tar (also .gz, .bz2, .xz), or the directory of an image layout"
        ) from error


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise BundleInvalid(f"{path} is broken or cut short: {error}; copy it again") from error


class _Tar:
    def __init__(self, tar: tarfile.TarFile, path: Path) -> None:
        self._tar = tar
        self._path = path
        self._files: dict[str, tarfile.TarInfo] = {}
        for entry in tar:
            self._take(entry)
        self._check_end()

    def _take(self, entry: tarfile.TarInfo) -> None:
        name = _safe(entry.name)
        if entry.isdir():
            return
        if entry.issym() or entry.islnk():
            base = posixpath.dirname(name) if entry.issym() else ""
            _safe(posixpath.join(base, entry.linkname))
        elif not entry.isreg():
            raise BundleInvalid(f"{entry.name[:80]!r} in {self._path} is a device, a pipe or the like; refused")
        if len(self._files) >= _MOST_FILES:
            raise BundleInvalid(f"{self._path} has more than {_MOST_FILES} files; refused")
        self._files[name] = entry

    def _check_end(self) -> None:
        """A tar ends with two blocks of zeros: without them it was cut between two files."""
        last = max((entry.offset_data + -(-entry.size // 512) * 512 for entry in self._files.values()), default=0)
        stream = self._tar.fileobj
        assert stream is not None, "opened for reading"  # noqa: S101
        stream.seek(last)
        if stream.read(1024) != bytes(1024):
            raise BundleInvalid(f"{self._path} is cut short: bring it again, with all its parts")

    def __contains__(self, name: str) -> bool:
        return self._resolved(name) is not None

    def _resolved(self, name: str) -> tarfile.TarInfo | None:
        for _ in range(4):
            entry = self._files.get(name)
            if entry is None or entry.isreg():
                return entry
            base = posixpath.dirname(name) if entry.issym() else ""
            name = posixpath.normpath(posixpath.join(base, entry.linkname))
        return None

    def names(self, prefix: str) -> Iterator[str]:
        return (name for name in self._files if name.startswith(prefix) and name in self)

    def size(self, name: str) -> int:
        entry = self._resolved(name)
        assert entry is not None, "asked for only where it is there"  # noqa: S101
        return entry.size

    def open(self, name: str) -> BinaryIO:
        entry = self._resolved(name)
        file = None if entry is None else self._tar.extractfile(entry)
        assert file is not None, "asked for only where it is there, and a file"  # noqa: S101
        return cast(BinaryIO, file)


class _Directory:
    def __init__(self, root: Path) -> None:
        self._root = root

    def _path(self, name: str) -> Path:
        return self._root / _safe(name)

    def __contains__(self, name: str) -> bool:
        path = self._path(name)
        with readable(path):
            return path.is_file() and self._root.resolve() in path.resolve().parents

    def names(self, prefix: str) -> Iterator[str]:
        for place, _, files in os.walk(self._root / prefix, onerror=_unreadable):
            for file in files:
                name = Path(place, file).relative_to(self._root).as_posix()
                if name in self:
                    yield name

    def size(self, name: str) -> int:
        path = self._path(name)
        with readable(path):
            return path.stat().st_size

    def open(self, name: str) -> BinaryIO:
        with readable(self._path(name)):
            return open(os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC), "rb", buffering=_BUFFER)


def _unreadable(error: OSError) -> None:
    """A directory that is not there holds nothing; one that can't be read is no empty one."""
    if not isinstance(error, FileNotFoundError):
        with readable(Path()):
            raise error


def _safe(name: str) -> str:
    """*name*, if it stays within the archive.

    Raises:
        BundleInvalid
    """
    normal = posixpath.normpath(name)
    if not name or "\0" in name or normal.startswith(("/", "../")) or normal == "..":
        raise BundleInvalid(f"{name[:80]!r} leads out of the bundle; refused")
    return normal
