"""The cache directory: an OCI image layout (image-spec 1.1, "Image Layout"), so that skopeo, crane and podman read it.

<cache>/oci-layout
<cache>/index.json                 no images: the layout holds content for others to name
<cache>/blobs/<algorithm>/<hex>    committed, verified, read-only, never changed
<cache>/ingest/<algorithm>-<hex>   downloads under way; kept over a crash, resumed by Range
<cache>/ingest/put-<number>        small content on its way in; void after a crash
<cache>/ledger/                    the facts
<cache>/control.sock               where a running mirror answers its own commands
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from mirror.errors import DigestInvalid, DiskFull, StorageBusy, StorageFailed
from mirror.oci.digest import ALGORITHMS, Digest

_UNUSABLE = "the cache directory {} can't be used; mend that, or choose another with --cache"
_WAY = 2**20  # bytes that a start takes, of which most are the ledger's
_FULL = {errno.ENOSPC, errno.EDQUOT}
log = structlog.get_logger()


class Layout:
    """Where things are in one cache directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ingests = root / "ingest"
        self.ledger = root / "ledger"
        self.control = root / "control.sock"
        self._blobs = [root / "blobs" / algorithm for algorithm in ALGORITHMS]
        self._lock = -1

    def create(self) -> None:
        """Makes the directories and marks them as an image layout.

        Raises:
            StorageFailed: the directory can't be made or written to.
        """
        with storage_errors(_UNUSABLE.format(self.root)):
            for directory in (*self._blobs, self.ingests):
                directory.mkdir(parents=True, exist_ok=True)
            for name, content in (
                ("oci-layout", '{"imageLayoutVersion":"1.0.0"}'),
                ("index.json", '{"schemaVersion":2,"manifests":[]}'),
            ):
                if not (self.root / name).exists():  # by rename: half of one would make others refuse the directory
                    begun = self.ingests / f"put-{name}"
                    begun.write_text(content)
                    begun.rename(self.root / name)
            self._probe()

    def _probe(self, content: bytes = b"probe") -> None:
        """Takes a file the way that content goes."""
        probe = self.ingests / "put-probe"
        try:
            probe.write_bytes(content)
            for directory in self._blobs:
                probe = probe.rename(directory / "probe")
        finally:
            with suppress(OSError):
                probe.unlink()

    def identity(self) -> tuple[tuple[int, int], ...]:
        """Says which directories these are; others in their places have another identity.

        Raises:
            StorageFailed: one is not there.
        """
        with storage_errors(_UNUSABLE.format(self.root)):
            found = [os.stat(directory) for directory in (*self._blobs, self.ingests)]
        return tuple((status.st_dev, status.st_ino) for status in found)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other mirrors out: two writers of one ingest would each verify what the other wrote over.

        Raises:
            StorageFailed: another one is in, or the directory can't be made or written to.
        """
        self._check_ours()
        with storage_errors(_UNUSABLE.format(self.root)):
            os.makedirs(self.ingests, exist_ok=True)
        try:
            self.lock()
            self._make_way()
            self.create()
            yield
        finally:
            self._unlock()

    def _check_ours(self) -> None:
        """Leaves alone what lists images: a mirror lists none, and would evict what somebody keeps there.

        Raises:
            StorageFailed
        """
        try:
            found: object = json.loads((self.root / "index.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            return
        if isinstance(found, dict) and found.get("manifests") and not self.ingests.exists():
            raise StorageFailed(
                f"{self.root} is an image layout of another program's: choose another directory with --cache, and "
                f"bring its images in with mirror import"
            )

    def _make_way(self) -> None:
        """Removes old content from a disk that is so full that not even a start is possible, until it is."""
        if not all(directory.is_dir() for directory in self._blobs):
            return
        blobs: list[tuple[float, str]] | None = None
        while blobs is None or blobs:
            try:
                with storage_errors(_UNUSABLE.format(self.root)):
                    self._probe(bytes(_WAY))
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
        """Locks the directory that is there now, in place of one that was.

        Raises:
            StorageBusy: another mirror uses it.
            StorageFailed: it can't be locked.
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
        """Every committed blob. Other files are passed over: they are not ours to judge."""
        for algorithm in ALGORITHMS:
            with os.scandir(self.root / "blobs" / algorithm) as entries:
                for entry in entries:
                    digest = _digest(f"{algorithm}:{entry.name}")
                    if digest is not None and entry.is_file(follow_symlinks=False):
                        yield digest, entry.stat(follow_symlinks=False)

    def kept_ingests(self) -> dict[Digest, int]:
        """The bytes that earlier downloads left, by digest. Removes what no download can go on with."""
        kept: dict[Digest, int] = {}
        with os.scandir(self.ingests) as entries:
            for entry in entries:
                digest = _digest(entry.name.replace("-", ":", 1))
                size = entry.stat(follow_symlinks=False).st_size
                if digest is not None and size:
                    kept[digest] = size
                elif not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
        return kept

    def publish(self, path: str, digest: Digest) -> None:
        """Makes the file at *path*, already synced, the blob *digest*, so that a power failure can't undo it."""
        target = self.blob(digest)
        os.rename(path, target)
        # From here on the blob is there for all; that its name could not be synced must not make it uncounted.
        try:
            directory = os.open(os.path.dirname(target), os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            log.warning("blob_not_durable", digest=str(digest), reason=str(error))


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Translates the operating system's errors.

    Raises:
        DiskFull: for lack of room or quota. StorageFailed: for other reasons. With *what*, and why.
    """
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        kind = DiskFull if error.errno in _FULL else StorageFailed
        cause = errno.errorcode.get(error.errno or 0, type(error).__name__)
        raise kind(f"{what}: {error.strerror or error}{where}", cause=cause) from error


def _digest(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except DigestInvalid:
        return None
