"""Readers that arrive after a download failed and before its ingest is closed."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from mirror.config import CacheSettings
from mirror.errors import IntegrityError
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.oci.ranges import Span
from mirror.origin import PullContext
from mirror.pull.downloads import Downloads
from mirror.storage.disk import DiskStore
from mirror.storage.fact_store import DiskFacts
from mirror.storage.ingest import DiskIngest
from tests.unit.sources import CONTEXT

CONTENT = b"right" * 40_000
DIGEST = Digest.of(CONTENT)
WITHIN = 10.0  # seconds


@dataclass
class Body:
    """A stream whose bytes are all available."""

    content: bytes
    start: int = 0
    size: int | None = len(CONTENT)
    validator: str | None = None

    def detach(self) -> None:
        return None

    async def read_into(self, buffer: memoryview) -> int:
        piece, self.content = self.content[: len(buffer)], self.content[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)


class Changing:
    """An origin whose content a test changes."""

    name = "changing"

    def __init__(self, content: bytes) -> None:
        self.content = content

    @asynccontextmanager
    async def open(self, context: PullContext, digest: Digest, span: Span | None) -> AsyncIterator[Body]:
        yield Body(self.content)


async def read(downloads: Downloads) -> bytes:
    """Read the whole blob."""
    async with downloads.follow(CONTEXT, DIGEST, len(CONTENT)) as download:
        at = 0
        while at < len(CONTENT):
            at = await download.reach(at)
        return os.pread(download.fileno(), at, 0)


async def test_reader_after_a_failure_gets_a_new_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrong bytes of the failed download disconnect only its own readers."""
    closing, may_close, close = asyncio.Event(), asyncio.Event(), DiskIngest.close

    async def slow(ingest: DiskIngest) -> None:
        closing.set()
        await may_close.wait()
        await close(ingest)

    origin = Changing(CONTENT[:-1] + b"!")
    monkeypatch.setattr(DiskIngest, "close", slow)
    async with (
        DiskFacts.open(tmp_path / "ledger") as facts,
        DiskStore.at(CacheSettings(path=tmp_path, max_size=2**20, min_free=0), facts, Metrics()) as store,
        Downloads(store, lambda _: [origin], Metrics()) as downloads,
        asyncio.timeout(WITHIN),
    ):
        first = asyncio.create_task(read(downloads))
        await closing.wait()
        with pytest.raises(IntegrityError):
            await first
        assert DIGEST not in downloads
        origin.content = CONTENT
        late = [asyncio.create_task(read(downloads)) for _ in range(3)]
        for _ in range(5):
            await asyncio.sleep(0)
        may_close.set()
        assert await asyncio.gather(*late) == [CONTENT] * 3
