"""Startup: the mirror's start time with many blobs in its cache directory."""

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from bench import content
from bench.contestants import MIRROR
from bench.stage import Stage
from bench.table import Row, Target

FEW, MANY = 100_000, 1_000_000
_MIB = 2**20
_WRITES_ROWS = 600.0  # seconds, at most, in which maintenance writes the rows of a million blobs


def measure(stage: Stage) -> list[Row]:
    """Measure from process start to the `listening` event: first without facts, then with those of that start."""
    if MIRROR not in stage.contestants:
        return []
    empty = Row("start, empty cache", "s", 2)
    with stage.forgiving(MIRROR, "start"):
        for turn in range(stage.rounds):
            with stage.cold(MIRROR) as server:
                empty.add(MIRROR.name, turn, server.start_seconds)
    rows = [empty, *_measure(stage, FEW, Target("<=", 2), None)]
    if stage.rounds > 1:  # a quick run has one round: making a million files takes minutes
        rows += _measure(stage, MANY, Target("<=", 8), Target("<=", 350))
    return rows


def _measure(stage: Stage, blobs: int, seconds: Target, mib: Target | None) -> list[Row]:
    unknown = Row(f"start, {blobs:,} blobs, no fact database", "s", 2)
    known = Row(f"start, {blobs:,} blobs, again", "s", 2, (seconds,))
    work = Row(f"start, {blobs:,} blobs, again", "server CPU s", 2)
    resident = Row(f"start, {blobs:,} blobs, again", "resident MiB", 1, () if mib is None else (mib,))
    with stage.forgiving(MIRROR, f"start with {blobs:,} blobs"):
        folder = stage.folder / f"start-{blobs}"
        content.fill_layout(folder / "cache", blobs)
        os.sync()
        with MIRROR.running(folder, stage.upstream.url) as server:
            unknown.add(MIRROR.name, 0, server.start_seconds)
            stage.say(f"{unknown.label}: {server.start_seconds:.2f} s")
            until = time.monotonic() + _WRITES_ROWS
            while _rows(folder) < blobs and time.monotonic() < until:
                time.sleep(1)
        for turn in range(stage.rounds):
            with MIRROR.running(folder, stage.upstream.url) as server:
                known.add(MIRROR.name, turn, server.start_seconds)
                work.add(MIRROR.name, turn, server.cpu_seconds())
                resident.add(MIRROR.name, turn, server.memory().resident / _MIB)
            stage.say(f"{known.label}: {server.start_seconds:.2f} s")
    return [unknown, known, work, resident]


def _rows(folder: Path) -> int:
    """Return the number of rows in the fact database."""
    with closing(sqlite3.connect(folder / "cache" / "ledger" / "cache.db")) as database:
        (found,) = database.execute("SELECT value FROM Settings WHERE key = 'count'").fetchone()
    return int(found)
