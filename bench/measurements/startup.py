"""Startup: the mirror's start time with many blobs in its cache directory."""

import os

from bench import content
from bench.contestants import MIRROR
from bench.stage import Stage
from bench.table import Row, Target

BLOBS = 100_000
_MIB = 2**20


def measure(stage: Stage) -> list[Row]:
    """Measure from process start to the `listening` event: first without a ledger, then with the one it created."""
    if MIRROR not in stage.contestants:
        return []
    empty = Row("start, empty cache", "s", 2)
    unknown = Row(f"start, {BLOBS:,} blobs, no ledger", "s", 2, (Target("<=", 3),))
    known = Row(f"start, {BLOBS:,} blobs, again", "s", 2, (Target("<=", 3),))
    work = Row(f"start, {BLOBS:,} blobs, again", "server CPU s", 2)
    resident = Row(f"start, {BLOBS:,} blobs, again", "resident MiB", 1)
    with stage.forgiving(MIRROR, "start"):
        for turn in range(stage.rounds):
            with stage.cold(MIRROR) as server:
                empty.add(MIRROR.name, turn, server.start_seconds)
        folder = stage.folder / "many"
        content.fill_layout(folder / "cache", BLOBS)
        os.sync()
        with MIRROR.running(folder, stage.upstream.url) as server:
            unknown.add(MIRROR.name, 0, server.start_seconds)
            stage.say(f"{unknown.label}: {server.start_seconds:.2f} s")
        for turn in range(stage.rounds):
            with MIRROR.running(folder, stage.upstream.url) as server:
                known.add(MIRROR.name, turn, server.start_seconds)
                work.add(MIRROR.name, turn, server.cpu_seconds())
                resident.add(MIRROR.name, turn, server.memory().resident / _MIB)
            stage.say(f"{known.label}: {server.start_seconds:.2f} s")
    return [empty, unknown, known, work, resident]
