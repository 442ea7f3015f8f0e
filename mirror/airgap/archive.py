"""Archives: read files by name from a tar (split into parts, or compressed) or a directory, without extracting them.

Harmful entries make opening fail, before any content is used: names outside the archive, devices, pipes, sockets. Links
are followed only to files of the same archive.
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
_MAX_FILES = 1_000_000
_DAMAGE = (tarfile.TarError, EOFError, OSError, ValueError, OverflowError, zlib.error, lzma.LZMAError)


class Archive(Protocol):
    """Read-only collection of files by name."""

    def __contains__(self, name: str) -> bool: ...

    def names(self, prefix: str) -> Iterator[str]:
        """Return the names of the files that start with *prefix*."""

    def size(self, name: str) -> int:
        """Return the bytes of an existing file."""

    def open(self, name: str) -> BinaryIO:
        """Open an existing file for reading. The caller closes it."""


@contextmanager
def opened(path: Path, unpack_directory: UnpackDirectory | None = None) -> Iterator[Archive]:
    """Open the archive at *path*: a directory, a tar, or the first part of a split tar.

    Args:
        unpack_directory: the directory to decompress a compressed archive into. None to read it in place, which is
            slower.

    Raises:
        BundleInvalid: if the archive can't be read, is truncated, or contains harmful entries.
    """
    files = parts_of(path)
    if files[0].is_dir():
        yield _Directory(path)
        return
    with ExitStack() as exits:
        stream: BinaryIO = exits.enter_context(io.BufferedReader(PartsReader(files), _BUFFER))
        with _read_errors(path):
            plain = None if unpack_directory is None else unpacked(stream, unpack_directory)
        stream = stream if plain is None else exits.enter_context(plain)
        tar = exits.enter_context(_tar(stream, path))
        with _read_errors(path):
            archive = _Tar(tar, path)
        yield archive


def content(archive: Archive, name: str, *, limit: int) -> bytes:
    """Read a whole file of at most *limit* bytes.

    Raises:
        BundleInvalid: if the file is missing or larger.
    """
    if name not in archive:
        raise BundleInvalid(f"the bundle has no {name}: copy it again, or export it again")
    if archive.size(name) > limit:
        raise BundleInvalid(
            f"{name} in the bundle has {archive.size(name)} bytes, more than the limit of {limit}: save or export the "
            f"image again"
        )
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
            raise BundleInvalid(f"{path} is not an archive; if it is a part of a bundle, name {first.name}") from error
        raise BundleInvalid(
            f"{path} is not an archive of images: name a tar file (also .gz, .bz2, .xz) or the directory of an OCI "
            f"image layout"
        ) from error


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise BundleInvalid(f"{path} is damaged or truncated: {error}; copy it again") from error


class _Tar:
    def __init__(self, tar: tarfile.TarFile, path: Path) -> None:
        self._tar = tar
        self._path = path
        self._files: dict[str, tarfile.TarInfo] = {}
        for entry in tar:
            self._add(entry)
        self._require_end()

    def _add(self, entry: tarfile.TarInfo) -> None:
        name = _safe(entry.name)
        if entry.isdir():
            return
        if entry.issym() or entry.islnk():
            base = posixpath.dirname(name) if entry.issym() else ""
            _safe(posixpath.join(base, entry.linkname))
        elif not entry.isreg():
            raise BundleInvalid(
                f"{entry.name[:80]!r} in {self._path} is neither a file, a directory nor a link: save or export the "
                f"image again"
            )
        if len(self._files) >= _MAX_FILES:
            raise BundleInvalid(
                f"{self._path} has more files than the limit of {_MAX_FILES}: save or export the image again, or fewer "
                f"images in one archive"
            )
        self._files[name] = entry

    def _require_end(self) -> None:
        """Raise BundleInvalid unless the tar ends with two blocks of zeros: without them it is truncated."""
        last = max((entry.offset_data + -(-entry.size // 512) * 512 for entry in self._files.values()), default=0)
        stream = self._tar.fileobj
        assert stream is not None, "a tar open for reading has a file"  # noqa: S101
        stream.seek(last)
        if stream.read(1024) != bytes(1024):
            raise BundleInvalid(f"{self._path} is truncated: copy it again, with all its parts")

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
        assert entry is not None, "callers check that the file exists"  # noqa: S101
        return entry.size

    def open(self, name: str) -> BinaryIO:
        entry = self._resolved(name)
        file = None if entry is None else self._tar.extractfile(entry)
        assert file is not None, "callers check that the file exists"  # noqa: S101
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
        for folder, _, files in os.walk(self._root / prefix, onerror=_raise_unreadable):
            for file in files:
                name = Path(folder, file).relative_to(self._root).as_posix()
                if name in self:
                    yield name

    def size(self, name: str) -> int:
        path = self._path(name)
        with readable(path):
            return path.stat().st_size

    def open(self, name: str) -> BinaryIO:
        with readable(self._path(name)):
            return open(os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC), "rb", buffering=_BUFFER)


def _raise_unreadable(error: OSError) -> None:
    """Raise BundleInvalid for a directory that can't be read. A missing directory counts as empty."""
    if not isinstance(error, FileNotFoundError):
        with readable(Path()):
            raise error


def _safe(name: str) -> str:
    """Return the normalized *name* of an entry.

    Raises:
        BundleInvalid: if it leads outside the archive.
    """
    normal = posixpath.normpath(name)
    if not name or "\0" in name or normal.startswith(("/", "../")) or normal == "..":
        raise BundleInvalid(f"the name {name[:80]!r} leads outside the bundle: do not use this archive")
    return normal
