"""Maintenance: each step runs, whether or not the others succeed."""

import asyncio
from pathlib import Path

import pytest

from mirror.maintenance import tasks
from mirror.maintenance.tasks import maintained
from mirror.storage import database
from tests.unit.catalog.caches import APP, V1, cache_at


async def test_unwritable_index_stops_no_other_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Last uses are written, space is freed, and the store stays writable."""
    monkeypatch.setattr(tasks, "_INTERVAL", 0.01)
    limits = asyncio.Event()
    async with cache_at(tmp_path) as cache:
        (tmp_path / "index.json").unlink()
        (tmp_path / "index.json").mkdir()
        await cache.pull(APP, V1)
        reserve, passes = cache.store.reserve, 0

        async def reserve_and_count(size: int) -> None:
            nonlocal passes
            await reserve(size)
            passes += 1
            if passes > 3:
                limits.set()

        monkeypatch.setattr(cache.store, "reserve", reserve_and_count)
        async with (
            asyncio.timeout(20),
            maintained(cache.store, cache.facts, cache.images, cache.rebuild, None),
        ):
            await limits.wait()
        assert cache.store.health.is_writable
        assert len(list(database.blob_rows(tmp_path / "ledger"))) == 2
        (tmp_path / "index.json").rmdir()
