"""The cache directory: an OCI image layout (image-spec 1.1, "Image Layout"), so that skopeo, crane and podman read it.

<cache>/oci-layout
<cache>/index.json                 the images by name, with pins and imports (see index_json)
<cache>/blobs/<algorithm>/<hex>    blobs: verified, read-only, never changed
<cache>/ingest/<algorithm>-<hex>   downloads in progress; kept over a crash, resumed by Range
<cache>/ingest/put-<name>          small files before their rename; removed after a crash
<cache>/ledger/                    the fact database
<cache>/control.sock               the admin socket of a running mirror
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import structlog

from mirror.errors import DiskFull, StorageBusy, StorageFailed
from mirror.oci.digest import ALGORITHMS, Digest

_UNUSABLE = "the cache directory {} can't be used; fix that, or choose another with --cache"
_NEEDED_AT_START = 2**20  # bytes that a start writes, most of them to the fact database
_MAX_INDEX = 2**28  # bytes of index.json, enough for 500,000 images
_FULL = {errno.ENOSPC, errno.EDQUOT}
log = structlog.get_logger()


class Layout:
    """The paths in one cache directory, and the operations on them that must be atomic."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ingests = root / "ingest"
        self.ledger = root / "ledger"
        self.control = root / "control.sock"
        self._blobs = [root / "blobs" / algorithm for algorithm in ALGORITHMS]
        self._lock = -1

    def create(self) -> None:
        """Create the directories and the files that make them an OCI image layout.

        Raises:
            StorageFailed: if the directory can't be created or written.
        """
        with storage_errors(_UNUSABLE.format(self.root)):
            for directory in (*self._blobs, self.ingests):
                directory.mkdir(parents=True, exist_ok=True)
            for name, content in (
                ("oci-layout", '{"imageLayoutVersion":"1.0.0"}'),
                ("index.json", '{"schemaVersion":2,"manifests":[]}'),
            ):
                if not (self.root / name).exists():
                    self._replace(name, content.encode())
            self._probe()

    def _probe(self, size: int = 1) -> None:
        """Write a file of *size* bytes, and move it through the directories as content is.

        There it is empty: blobs/ and ingest/ may be as large as max_size already.
        """
        probe = self.root / "probe"
        try:
            with _new_file(probe) as file:
                file.write(bytes(size))
                file.truncate(0)
            for directory in (self.ingests, *self._blobs):
                probe = probe.rename(directory / "put-probe")
        finally:
            with suppress(OSError):
                probe.unlink()

    def identity(self) -> tuple[tuple[int, int], ...]:
        """Return device and inode of the directories: others in their places have another identity.

        Raises:
            StorageFailed: if one does not exist.
        """
        with storage_errors(_UNUSABLE.format(self.root)):
            found = [os.stat(directory) for directory in (*self._blobs, self.ingests)]
        return tuple((status.st_dev, status.st_ino) for status in found)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the directory for this mirror: two writers of one ingest would overwrite what the other verified.

        Raises:
            StorageBusy: if another mirror uses it.
            StorageFailed: if it can't be created or written, or belongs to another program.
        """
        self._require_ours()
        with storage_errors(_UNUSABLE.format(self.root)):
            os.makedirs(self.ingests, exist_ok=True)
        try:
            self.lock()
            self._free_space()
            self.create()
            yield
        finally:
            self._unlock()

    def _require_ours(self) -> None:
        """Refuse an image layout of another program, whose images the mirror would evict.

        A cache has the directory ingest/ or ledger/ beside an index.json that names images.

        Raises:
            StorageFailed: if the directory contains such a layout.
        """
        try:
            with open_regular(self.root / "index.json") as file:
                found: object = json.load(file)
        except (OSError, ValueError, RecursionError):
            return
        is_cache = self.ingests.exists() or self.ledger.exists()
        if isinstance(found, dict) and found.get("manifests") and not is_cache:
            raise StorageFailed(
                f"{self.root} contains an image layout of another program: choose another directory with --cache; to "
                f"use these images, run mirror import {self.root} --cache OTHER"
            )

    def _free_space(self) -> None:
        """Remove old content from a disk that is too full for a start, until a start is possible."""
        if not all(directory.is_dir() for directory in self._blobs):
            return
        blobs: list[tuple[float, str]] | None = None
        while blobs is None or blobs:
            try:
                with storage_errors(_UNUSABLE.format(self.root)):
                    self._probe(_NEEDED_AT_START)
            except DiskFull:
                if blobs is None:
                    kept = [(0.0, self.ingest(digest)) for digest in self.kept_ingests()]
                    blobs = [(status.st_mtime, self.blob(digest)) for digest, status in self.blobs()]
                    blobs = sorted([*kept, *blobs], reverse=True)
                if blobs:
                    log.warning("disk_full_at_start", removed=blobs[-1][1])
                    os.unlink(blobs.pop()[1])
            else:
                return

    def lock(self) -> None:
        """Lock the directory that is there now, and unlock the one that was locked before.

        Raises:
            StorageBusy: if another mirror uses it.
            StorageFailed: if it can't be locked.
        """
        with storage_errors(_UNUSABLE.format(self.root)):
            directory = os.open(self.ingests, os.O_RDONLY | os.O_DIRECTORY)
        if self._lock >= 0 and os.path.sameopenfile(directory, self._lock):
            os.close(directory)
            return
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(directory)
            if not isinstance(error, BlockingIOError):
                raise StorageFailed(f"{_UNUSABLE.format(self.root)}: it can't be locked: {error.strerror}") from error
            raise StorageBusy(
                f"another mirror uses the cache directory {self.root}; stop it, or choose another with --cache"
            ) from error
        self._unlock()
        self._lock = directory

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def blob(self, digest: Digest) -> str:
        return f"{self.root}/blobs/{digest.algorithm}/{digest.hex}"

    def ingest(self, digest: Digest) -> str:
        return f"{self.ingests}/{digest.algorithm}-{digest.hex}"

    def put(self, name: int | str) -> str:
        return f"{self.ingests}/put-{name}"

    def blobs(self) -> Iterator[tuple[Digest, os.stat_result]]:
        """Yield every blob with its status. Files of other programs are ignored."""
        for algorithm in ALGORITHMS:
            with os.scandir(self.root / "blobs" / algorithm) as entries:
                for entry in entries:
                    digest = Digest.parse_or_none(f"{algorithm}:{entry.name}")
                    if digest is not None and entry.is_file(follow_symlinks=False):
                        yield digest, entry.stat(follow_symlinks=False)

    def kept_ingests(self) -> dict[Digest, int]:
        """Return the bytes that earlier downloads left, by digest. Removes files that no download can resume."""
        kept: dict[Digest, int] = {}
        with os.scandir(self.ingests) as entries:
            for entry in entries:
                digest = Digest.parse_or_none(entry.name.replace("-", ":", 1))
                size = entry.stat(follow_symlinks=False).st_size
                if digest is not None and size and entry.is_file(follow_symlinks=False):
                    kept[digest] = size
                elif not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
        return kept

    def commit(self, descriptor: int, path: str, digest: Digest) -> None:
        """Turn the verified file at *path*, open as *descriptor*, into the blob *digest*. It survives a power failure.

        The only way in which content becomes a blob.

        Raises:
            OSError: if it could not be made durable; nothing became visible.
        """
        os.fchmod(descriptor, 0o444)
        os.fsync(descriptor)
        target = self.blob(digest)
        os.rename(path, target)
        try:
            sync_directory(os.path.dirname(target))
        except OSError:
            os.rename(target, path)  # a name that a power failure can undo must not count as stored
            raise

    def read_index(self) -> bytes | None:
        """Return the content of index.json; None if it can't be read, or is too large."""
        with suppress(OSError), open_regular(self.root / "index.json") as file:
            content = file.read(_MAX_INDEX + 1)
            return content if len(content) <= _MAX_INDEX else None
        return None

    def write_index(self, content: bytes) -> None:
        """Replace index.json. The new content survives a power failure.

        Raises:
            StorageFailed: if the file can't be written; its previous content stays.
        """
        with storage_errors(f"{self.root / 'index.json'} can't be written"):
            self._replace("index.json", content)
            sync_directory(self.root)

    def _replace(self, name: str, content: bytes) -> None:
        """Write a file and rename it: other programs never see half of it."""
        unnamed = self.ingests / f"put-{name}"
        try:
            with _new_file(unnamed) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            unnamed.rename(self.root / name)
        except OSError:
            with suppress(OSError):
                unnamed.unlink()
            raise


class NotRegular(OSError):
    """A link, a FIFO, a device or a directory is in the place of a file: another program put it there."""


def open_file(path: str | Path, flags: int = os.O_RDONLY) -> tuple[int, os.stat_result]:
    """Open a regular file and return its file descriptor and status. Follows no link, and waits for no FIFO.

    Raises:
        NotRegular: if something else has its name.
        OSError: if it can't be opened.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotRegular(errno.ELOOP, "it is a symbolic link", str(path)) from error
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise NotRegular(errno.EINVAL, "it is not a regular file", str(path))
    return descriptor, status


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading; see `open_file`."""
    descriptor, _ = open_file(path)
    return open(descriptor, "rb")


def _new_file(path: Path) -> BinaryIO:
    """Create a file for writing. A file or link of its name is removed, never followed."""
    path.unlink(missing_ok=True)
    return open(path, "xb")


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Translate OSError of the block to an error that says *what* failed, and why.

    Raises:
        DiskFull: if the disk or a quota is full.
        StorageFailed: if another error occurs.
    """
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        kind = DiskFull if error.errno in _FULL else StorageFailed
        cause = errno.errorcode.get(error.errno or 0, type(error).__name__)
        raise kind(f"{what}: {error.strerror or error}{where}", cause=cause) from error


def sync_directory(path: str | Path) -> None:
    """Make names that were created or changed in a directory survive a power failure."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
