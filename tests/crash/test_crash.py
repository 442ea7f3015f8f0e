"""SIGKILL at any time: no wrong bytes are served afterwards, no committed blob is lost, and the size stays exact."""

import asyncio
import os
import time
from collections import Counter
from pathlib import Path

from tests.crash.rounds import CacheRounds

CACHES = 2
ROUNDS = int(os.environ.get("CRASH_ROUNDS", "24"))  # `make crash` has 200
SEED = os.environ.get("CRASH_SEED") or f"{time.time_ns():x}"


async def _rounds(directory: Path, rounds: int) -> CacheRounds:
    async with CacheRounds.at(directory, f"{SEED} {directory.name}") as cache:
        await cache.run(rounds)
    return cache


async def test_sigkill_at_any_time(tmp_path: Path) -> None:
    """Each restart serves correct bytes, all committed blobs and known tags, with exact size, and resumes downloads."""
    print(f"CRASH_SEED={SEED} CRASH_ROUNDS={ROUNDS}")
    started = time.monotonic()
    async with asyncio.TaskGroup() as running:
        tasks = [running.create_task(_rounds(tmp_path / f"cache{n}", ROUNDS // CACHES)) for n in range(CACHES)]
    caches = [task.result() for task in tasks]
    kills = sum((cache.kills for cache in caches), Counter[str]())
    print(f"{ROUNDS // CACHES * CACHES} rounds in {time.monotonic() - started:.0f} s: {dict(sorted(kills.items()))}")
    for cache in caches:
        print(f"{cache.directory.name}: {cache.answers} answers; {cache.figures}")
        assert cache.limit / 2 < cache.figures.highest <= cache.limit
