"""Conditions on which the mirror is killed: at any time, or right after some state is seen on the disk or in the log.

A thread polls the condition and sends the signal itself: microseconds pass between the two.
"""

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.real.cache import CacheDirectory

_POLL_INTERVAL = 0.0002  # seconds
_PATIENCE = 1.5  # seconds after which the kill happens unconditionally

Condition = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Observed:
    """The state of a mirror as seen from outside."""

    cache: CacheDirectory
    log: Path
    sizes: dict[str, int]  # digest -> size of the whole blob in bytes
    rng: random.Random


KillCondition = Callable[[Observed], Condition]


def any_time(observed: Observed) -> Condition:
    """True at once."""
    return lambda: True


def a_put(observed: Observed) -> Condition:
    """A manifest is being written."""
    return lambda: any(name.startswith("put-") for name in os.listdir(observed.cache.path / "ingest"))


def an_ingest_in_the_middle(observed: Observed) -> Condition:
    """A random share of a blob has been received, but not all."""
    share = observed.rng.random()
    return lambda: any(size > share * whole for size, whole in _ingests(observed) if size < whole)


def an_ingest_that_is_whole(observed: Observed) -> Condition:
    """All bytes of a blob are received, and are about to be synced and renamed."""
    return lambda: any(size == whole for size, whole in _ingests(observed))


def a_commit(observed: Observed) -> Condition:
    """A blob has just been committed; the fact database may have no row of it yet."""
    before = set(os.listdir(observed.cache.path / "blobs/sha256"))
    return lambda: not set(os.listdir(observed.cache.path / "blobs/sha256")) <= before


def an_eviction(observed: Observed) -> Condition:
    """A blob has just been evicted; others may follow."""
    before = set(os.listdir(observed.cache.path / "blobs/sha256"))
    return lambda: not before <= set(os.listdir(observed.cache.path / "blobs/sha256"))


def a_fact_write(observed: Observed) -> Condition:
    """The database's log has just grown."""
    before = _changed(observed.cache.ledger)
    return lambda: _changed(observed.cache.ledger) != before


def an_event(observed: Observed) -> Condition:
    """The log has a new event of an eviction or a pull."""
    name = observed.rng.choice((b'"blobs_evicted"', b'"pull_served"'))
    before = observed.log.stat().st_size
    return lambda: name in _since(observed.log, before)


KILL_CONDITIONS: tuple[KillCondition, ...] = (
    *(any_time, a_put, an_ingest_in_the_middle, an_ingest_that_is_whole),
    *(a_commit, an_eviction, a_fact_write, an_event),
)


def kill_when(condition: Condition, kill: Callable[[], None]) -> None:
    """Call *kill* as soon as the condition holds, or after _PATIENCE seconds. Blocks; for a thread."""
    deadline = time.monotonic() + _PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(_POLL_INTERVAL)
    kill()


def _ingests(observed: Observed) -> list[tuple[int, int]]:
    """Return the received and the total bytes of each download."""
    found = []
    with os.scandir(observed.cache.path / "ingest") as entries:
        for entry in entries:
            whole = observed.sizes.get(entry.name.replace("-", ":"))
            try:
                if whole is not None:
                    found.append((entry.stat().st_size, whole))
            except FileNotFoundError:
                continue  # renamed in the meantime
    return found


def _changed(directory: Path) -> list[tuple[str, int, int]]:
    states = []
    for name in sorted(os.listdir(directory)):
        try:
            status = os.stat(directory / name)
        except FileNotFoundError:
            continue
        states.append((name, status.st_size, status.st_mtime_ns))
    return states


def _since(log: Path, offset: int) -> bytes:
    with log.open("rb") as file:
        file.seek(offset)
        return file.read()
