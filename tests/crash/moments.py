"""When to kill: at any time, or right after something was seen on the disk or in the log.

Conditions are looked at in a thread of their own, again and again, and the thread kills: between the condition and the
signal pass microseconds.
"""

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.real.cache import CacheDirectory

_LOOK_EVERY = 0.0002  # seconds
_PATIENCE = 1.5  # seconds after which the moment is any other

DiskHealth = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Scene:
    """What can be seen of a mirror from outside."""

    cache: CacheDirectory
    log: Path
    sizes: dict[str, int]  # digest -> bytes of the whole
    luck: random.Random


Moment = Callable[[Scene], DiskHealth]


def any_time(scene: Scene) -> DiskHealth:
    """Nothing in particular."""
    return lambda: True


def a_put(scene: Scene) -> DiskHealth:
    """A manifest is being written."""
    return lambda: any(name.startswith("put-") for name in os.listdir(scene.cache.path / "ingest"))


def an_ingest_in_the_middle(scene: Scene) -> DiskHealth:
    """Some bytes of a blob have arrived, and some not."""
    share = scene.luck.random()
    return lambda: any(size > share * whole for size, whole in _ingests(scene) if size < whole)


def an_ingest_that_is_whole(scene: Scene) -> DiskHealth:
    """All bytes are here, and are about to be synced and renamed."""
    return lambda: any(size == whole for size, whole in _ingests(scene))


def a_commit(scene: Scene) -> DiskHealth:
    """A blob has just got its name; perhaps nothing is written down of it yet."""
    before = set(os.listdir(scene.cache.path / "blobs/sha256"))
    return lambda: not set(os.listdir(scene.cache.path / "blobs/sha256")) <= before


def an_eviction(scene: Scene) -> DiskHealth:
    """A blob has just gone; perhaps others are about to."""
    before = set(os.listdir(scene.cache.path / "blobs/sha256"))
    return lambda: not before <= set(os.listdir(scene.cache.path / "blobs/sha256"))


def a_ledger_write(scene: Scene) -> DiskHealth:
    """The database's log has just grown."""
    before = _changed(scene.cache.ledger)
    return lambda: _changed(scene.cache.ledger) != before


def an_event(scene: Scene) -> DiskHealth:
    """The log tells of an eviction or a pull."""
    name = scene.luck.choice((b'"blobs_evicted"', b'"pull_served"'))
    before = scene.log.stat().st_size
    return lambda: name in _since(scene.log, before)


MOMENTS: tuple[Moment, ...] = (
    *(any_time, a_put, an_ingest_in_the_middle, an_ingest_that_is_whole),
    *(a_commit, an_eviction, a_ledger_write, an_event),
)


def wait_and_do(condition: DiskHealth, strike: Callable[[], None]) -> None:
    """Strike as soon as the condition holds, or when it doesn't in all that time. For a thread."""
    deadline = time.monotonic() + _PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY)
    strike()


def _ingests(scene: Scene) -> list[tuple[int, int]]:
    """Bytes that have arrived, and bytes of the whole, of each download."""
    found = []
    with os.scandir(scene.cache.path / "ingest") as entries:
        for entry in entries:
            whole = scene.sizes.get(entry.name.replace("-", ":"))
            try:
                if whole is not None:
                    found.append((entry.stat().st_size, whole))
            except FileNotFoundError:
                continue  # it was renamed meanwhile
    return found


def _changed(ledger: Path) -> list[tuple[str, int, int]]:
    states = []
    for name in sorted(os.listdir(ledger)):
        try:
            status = os.stat(ledger / name)
        except FileNotFoundError:
            continue
        states.append((name, status.st_size, status.st_mtime_ns))
    return states


def _since(log: Path, offset: int) -> bytes:
    with log.open("rb") as file:
        file.seek(offset)
        return file.read()
