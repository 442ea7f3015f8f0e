"""Links, FIFOs and directories in the places of the mirror's files: never followed, never waited for."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mirror.config import CacheSettings
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.storage.disk import DiskStore
from mirror.storage.fact_store import DiskFacts
from mirror.storage.layout import Layout

CONTENT = bytes(range(250)) * 4
DIGEST = Digest.of(CONTENT)
SECRET = bytes(1000)  # as large as the blob: its size does not give it away
BLOB, INGEST = f"blobs/sha256/{DIGEST.hex}", f"ingest/sha256-{DIGEST.hex}"
PUTS = ["probe", "ingest/put-0", "ingest/put-probe", "ingest/put-index.json"]
PLACES = [BLOB, INGEST, *PUTS, "index.json", "oci-layout"]


def link(path: Path) -> None:
    path.symlink_to(secret_beside(path))


def fifo(path: Path) -> None:
    os.mkfifo(path)


def secret_beside(path: Path) -> Path:
    return next(parent for parent in path.parents if (parent / "secret").exists()) / "secret"


@asynccontextmanager
async def opened(cache: Path) -> AsyncIterator[DiskStore]:
    """Open the store as a start does."""
    async with asyncio.timeout(20):
        with Layout(cache).locked():
            async with (
                DiskFacts.open(cache / "ledger") as facts,
                DiskStore.at(CacheSettings(path=cache, max_size=2**20, min_free=0), facts, Metrics()) as store,
            ):
                yield store


async def store_and_read(store: DiskStore) -> None:
    """Store the blob if it is a miss, and read it in every way: only its own bytes come back."""
    assert await store.read(DIGEST) in {None, CONTENT}
    async with store.open(DIGEST) as blob:
        assert blob is None or os.pread(blob.fileno(), 2000, 0) == CONTENT
    assert (await store.read_documents([DIGEST])) == {}
    async with store.ingest(DIGEST) as ingest:
        ingest.restart()
        await ingest.reserve(len(CONTENT))
        await ingest.append(memoryview(CONTENT))
        ingest.verify(len(CONTENT))
        await ingest.commit()
    other = os.urandom(100)
    await store.put(Digest.of(other), other)
    await store.write_index(b"{}")
    await store.read_index()
    assert await store.read(DIGEST) == CONTENT


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("plant", [link, fifo])
@pytest.mark.parametrize("place", PLACES)
async def test_planted_file_is_neither_followed_nor_waited_for(
    tmp_path: Path, place: str, plant: Callable[[Path], None], running: bool
) -> None:
    """The mirror neither reads nor changes the target of a link that is planted before a start or while it runs."""
    cache, secret = tmp_path / "cache", tmp_path / "secret"
    secret.write_bytes(SECRET)
    async with opened(cache) as store:
        await store.put(DIGEST, CONTENT)
        if running:
            (cache / place).unlink(missing_ok=True)
            plant(cache / place)
            await store_and_read(store)
    if not running:
        (cache / place).unlink(missing_ok=True)
        plant(cache / place)
        async with opened(cache) as store:
            await store_and_read(store)
    assert secret.read_bytes() == SECRET
