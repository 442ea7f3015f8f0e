"""Damage to the fact database between a kill and the next start."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path, random.Random], None]


def deleted(directory: Path, rng: random.Random) -> None:
    """Delete the directory."""
    shutil.rmtree(directory)


def without_log(directory: Path, rng: random.Random) -> None:
    """Delete the database's write-ahead log."""
    for name in ("cache.db-wal", "cache.db-shm"):
        (directory / name).unlink(missing_ok=True)


def emptied(directory: Path, rng: random.Random) -> None:
    """Truncate all files to zero bytes."""
    for file in _files(directory):
        file.write_bytes(b"")


def truncated(directory: Path, rng: random.Random) -> None:
    """Truncate each file at a random length."""
    for file in _files(directory):
        content = file.read_bytes()
        file.write_bytes(content[: rng.randrange(len(content) + 1)])


def scribbled(directory: Path, rng: random.Random) -> None:
    """Overwrite a random part of each file with random bytes."""
    for file in _files(directory):
        content = bytearray(file.read_bytes())
        at = rng.randrange(len(content) + 1)
        content[at : at + 8192] = rng.randbytes(min(8192, len(content) - at))
        file.write_bytes(content)


def random_bytes(directory: Path, rng: random.Random) -> None:
    """Replace the content of each file with as many random bytes."""
    for file in _files(directory):
        file.write_bytes(rng.randbytes(file.stat().st_size))


def a_file(directory: Path, rng: random.Random) -> None:
    """Put a file in the place of the directory."""
    shutil.rmtree(directory)
    directory.write_bytes(b"not a directory")


DAMAGES: tuple[Damage, ...] = (deleted, without_log, emptied, truncated, scribbled, random_bytes, a_file)
LOSSES: tuple[Damage, ...] = (deleted, emptied, random_bytes, a_file)  # after which no fact is readable


def _files(directory: Path) -> list[Path]:
    return [file for file in sorted(directory.rglob("*")) if file.is_file()]
