"""Facts that the tests keep, and the answers that a damaged store may give about them."""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mirror.errors import StorageFailed
from mirror.oci.digest import Digest
from mirror.oci.image_names import Image
from mirror.oci.names import Repository, Tag
from mirror.storage.blob_rows import NamedBlob
from mirror.storage.fact_store import DiskFacts
from mirror.storage.facts import HeldFact, ManifestFact, TagFact

APP, TOOL = Repository("quay.io", "org/app"), Repository("docker.io", "org/app")
LATEST, EDGE = Tag("latest"), Tag("edge")
DIGESTS = [Digest.of(bytes([number]), algorithm) for number in range(3) for algorithm in ("sha256", "sha512")]
IMAGES = [Image(APP, LATEST), Image(TOOL, EDGE), Image(Repository("localhost:5000", "a"), DIGESTS[0])]

FACT = TagFact(DIGESTS[0], 1_700_000_000.5)
MANIFEST = ManifestFact("application/json", tuple(DIGESTS[:3]))
HELD = {digest: HeldFact("a/b", "pulled", 1_700_000_000.25) for digest in DIGESTS[:2]}
BLOBS = {digest: (number, 1_700_000_000.0 + number) for number, digest in enumerate(DIGESTS)}
BLOB_ROWS = [(str(digest), *row) for digest, row in BLOBS.items()]


async def fill(path: Path) -> None:
    async with DiskFacts.open(path) as facts:
        await facts.keep_tag(APP, LATEST, FACT)
        await facts.keep_manifest(DIGESTS[0], MANIFEST)
        for digest, fact in HELD.items():
            await facts.keep_held(APP, digest, fact)
        await facts.keep_pin(IMAGES[0])
        await facts.keep_blobs(BLOB_ROWS)


async def check_no_lie(facts: DiskFacts) -> None:
    """A fact that is read was kept, or is unknown; a list that can't be read is an error, and not an empty list."""
    assert await facts.tag(APP, LATEST) in {None, FACT}
    assert await facts.manifest(DIGESTS[0]) in {None, MANIFEST}
    with suppress(StorageFailed):
        assert (await facts.held(APP)).items() <= HELD.items()
    with suppress(StorageFailed):
        assert (await facts.all_tags()).items() <= {(APP, LATEST): FACT}.items()
    with suppress(StorageFailed):
        assert await facts.pins() <= {IMAGES[0]}
    assert (await blobs_of(facts)).items() <= {digest.hex: row for digest, row in BLOBS.items()}.items()


@contextmanager
def directory() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="facts-"))
    try:
        yield root
    finally:
        shutil.rmtree(root)


async def blobs_of(facts: DiskFacts) -> dict[str, tuple[int, float]]:
    """Return size and last use of every blob, by hex digits."""
    found: dict[str, tuple[int, float]] = {}

    def take(blobs: Sequence[NamedBlob]) -> None:
        for name, size, used in blobs:
            found[name] = (size, used)

    await facts.load_blobs(take)
    return found


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Fill *disk*, so that no write succeeds within the context."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    yield
    filler.unlink()


class FailingDeletions:
    """A diskcache whose deletions by tag fail."""

    def __init__(self, facts: DiskFacts) -> None:
        self._facts = facts
        self._cache = facts._cache

    def __getattr__(self, name: str) -> object:
        if name == "evict":
            raise sqlite3.OperationalError("database or disk is full")
        return getattr(self._cache, name)

    def __enter__(self) -> None:
        self._facts._cache = self

    def __exit__(self, *_: object) -> None:
        self._facts._cache = self._cache
