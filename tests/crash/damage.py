"""What befalls the ledger between a kill and the next start."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path, random.Random], None]


def deleted(ledger: Path, luck: random.Random) -> None:
    """The directory is gone."""
    shutil.rmtree(ledger)


def without_log(ledger: Path, luck: random.Random) -> None:
    """The database is there, its write-ahead log is not."""
    for name in ("cache.db-wal", "cache.db-shm"):
        (ledger / name).unlink(missing_ok=True)


def emptied(ledger: Path, luck: random.Random) -> None:
    """All files are there, and have no bytes."""
    for file in _files(ledger):
        file.write_bytes(b"")


def truncated(ledger: Path, luck: random.Random) -> None:
    """Every file ends somewhere before its end."""
    for file in _files(ledger):
        content = file.read_bytes()
        file.write_bytes(content[: luck.randrange(len(content) + 1)])


def scribbled(ledger: Path, luck: random.Random) -> None:
    """A run of random bytes stands somewhere in every file."""
    for file in _files(ledger):
        content = bytearray(file.read_bytes())
        at = luck.randrange(len(content) + 1)
        content[at : at + 8192] = luck.randbytes(min(8192, len(content) - at))
        file.write_bytes(content)


def random_bytes(ledger: Path, luck: random.Random) -> None:
    """Every file is of its old length, and nothing but random bytes."""
    for file in _files(ledger):
        file.write_bytes(luck.randbytes(file.stat().st_size))


def a_file(ledger: Path, luck: random.Random) -> None:
    """There is a file where the directory should be."""
    shutil.rmtree(ledger)
    ledger.write_bytes(b"not a directory")


DAMAGES: tuple[Damage, ...] = (deleted, without_log, emptied, truncated, scribbled, random_bytes, a_file)
LOSSES: tuple[Damage, ...] = (deleted, emptied, random_bytes, a_file)  # after which nothing of it can be read


def _files(ledger: Path) -> list[Path]:
    return [file for file in sorted(ledger.rglob("*")) if file.is_file()]
