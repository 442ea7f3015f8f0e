"""The cache directory: an OCI image layout (image-spec 1.1, "Image Layout"), so that skopeo, crane and podman read it.

<cache>/oci-layout
<cache>/index.json                 no images: the layout holds content for others to name
<cache>/blobs/<algorithm>/<hex>    committed, verified, read-only, never changed
<cache>/ingest/<algorithm>-<hex>   downloads under way; kept over a crash, resumed by Range
<cache>/ingest/put-<number>        small content on its way in; void after a crash
<cache>/ledger/                    the facts
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from mirror.errors import DigestInvalid, StorageFailed
from mirror.oci.digest import ALGORITHMS, Digest

_UNUSABLE = "the cache directory {} can't be used; mend that, or choose another with --cache"
log = structlog.get_logger()


class Layout:
    """Where things are in one cache directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ingests = root / "ingest"
        self.ledger = root / "ledger"

    def create(self) -> None:
        """Makes the directories and marks them as an image layout.

        Raises:
            StorageFailed: the directory can't be made or written to.
        """
        with storage_errors(_UNUSABLE.format(self.root)):
            for algorithm in ALGORITHMS:
                (self.root / "blobs" / algorithm).mkdir(parents=True, exist_ok=True)
            self.ingests.mkdir(exist_ok=True)
            for name, content in (
                ("oci-layout", '{"imageLayoutVersion":"1.0.0"}'),
                ("index.json", '{"schemaVersion":2,"manifests":[]}'),
            ):
                if not (self.root / name).exists():
                    (self.root / name).write_text(content)
            probe = self.ingests / "put-probe"
            probe.write_bytes(b"")
            probe.unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other mirrors out: two writers of one ingest would each verify what the other wrote over.

        Raises:
            StorageFailed: another one is in.
        """
        with storage_errors(_UNUSABLE.format(self.root)):
            os.makedirs(self.ingests, exist_ok=True)
            directory = os.open(self.ingests, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StorageFailed(
                    f"another mirror uses the cache directory {self.root}; stop it, or choose another with --cache"
                ) from error
            yield
        finally:
            os.close(directory)

    def blob(self, digest: Digest) -> str:
        return f"{self.root}/blobs/{digest.algorithm}/{digest.hex}"

    def ingest(self, digest: Digest) -> str:
        return f"{self.ingests}/{digest.algorithm}-{digest.hex}"

    def put(self, number: int) -> str:
        return f"{self.ingests}/put-{number}"

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
        StorageFailed: with *what*, and why.
    """
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise StorageFailed(f"{what}: {error.strerror or error}{where}") from error


def _digest(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except DigestInvalid:
        return None
