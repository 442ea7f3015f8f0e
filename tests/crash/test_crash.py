"""kill -9 at any moment: nothing wrong is served afterwards, nothing committed is lost, and the count is exact."""

import asyncio
import os
import time
from collections import Counter
from pathlib import Path

from tests.crash.lane import Lane

LANES = 2
ROUNDS = int(os.environ.get("CRASH_ROUNDS", "24"))  # `make crash` has 200
SEED = os.environ.get("CRASH_SEED") or f"{time.time_ns():x}"


async def _lane(directory: Path, rounds: int) -> Lane:
    async with Lane.at(directory, f"{SEED} {directory.name}") as lane:
        await lane.run(rounds)
    return lane


async def test_kill_9_at_any_moment(tmp_path: Path) -> None:
    """After each restart: right bytes, all committed blobs, known tags, exact count, resumed downloads, no litter."""
    print(f"CRASH_SEED={SEED} CRASH_ROUNDS={ROUNDS}")
    began = time.monotonic()
    async with asyncio.TaskGroup() as running:
        tasks = [running.create_task(_lane(tmp_path / f"lane{n}", ROUNDS // LANES)) for n in range(LANES)]
    lanes = [task.result() for task in tasks]
    kills = sum((lane.kills for lane in lanes), Counter[str]())
    print(f"{ROUNDS // LANES * LANES} rounds in {time.monotonic() - began:.0f} s: {dict(sorted(kills.items()))}")
    for lane in lanes:
        print(f"{lane.directory.name}: {lane.answers} answers while it lasted; {lane.figures}")
        assert lane.limit / 2 < lane.figures.highest <= lane.limit
