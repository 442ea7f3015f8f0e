"""The ledger's database: diskcache over SQLite, opened only where it is whole and holds JSON, and else begun anew."""

from __future__ import annotations

import sqlite3
import zlib
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import diskcache
import structlog
from diskcache.core import MODE_PICKLE

from mirror.errors import StorageFailed

DAMAGE = (sqlite3.Error, zlib.error, OSError, EOFError, ValueError, TypeError, RecursionError, OverflowError)
"""What a database raises that is damaged, or can't be read."""

_BUSY_SECONDS = 10
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_ENOUGH = 2**18  # bytes that an opening writes, at most
log = structlog.get_logger()


class _JsonOnly(diskcache.JSONDisk):  # type: ignore[misc,no-any-unimported]  # diskcache has no types
    def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> object:
        if mode == MODE_PICKLE:
            raise ValueError("the ledger holds a pickle, which the mirror never writes")
        return super().fetch(mode, filename, value, read)


def open_or_replace(path: Path) -> Any:  # noqa: ANN401 - diskcache has no types
    """The database at *path*; one that is damaged is put aside, and a new one begun.

    Raises:
        StorageFailed: it is in use, or nothing can be written there: then it may be whole.
    """
    try:
        return opened(path)
    except DAMAGE as error:
        if not path.exists() or not _takes_more(path.parent) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY:
            raise StorageFailed(f"the ledger {path} can't be opened: {error}; mend that first") from error
        return renewed(path, None, str(error))


def _takes_more(directory: Path) -> bool:
    """Whether what a ledger takes can be written here. Where not, it may be as whole as ever."""
    probe = directory / "ledger.probe"
    try:
        probe.write_bytes(bytes(_ENOUGH))
    except OSError:
        return False
    finally:
        with suppress(OSError):
            probe.unlink()
    return True


def renewed(path: Path, cache: Any, reason: str) -> Any:  # noqa: ANN401 - diskcache has no types
    """A new one in the place of what is at *path*, which is put aside.

    Args:
        cache: the old one, to be closed; None where it could not be opened.

    Raises:
        StorageFailed: it can't be made.
    """
    aside = path.with_name(f"{path.name}.damaged")
    try:
        if cache is not None:
            cache.close()
        if path.exists():
            log.warning("ledger_damaged", path=str(path), put_aside=str(aside), error=reason)
            _remove(aside)
            path.rename(aside)
        return opened(path)
    except DAMAGE as error:
        raise StorageFailed(f"the ledger {path} is damaged ({reason}) and can't be renewed: {error}") from error


def identity_of(cache: Any) -> tuple[int, int] | None:  # noqa: ANN401 - diskcache has no types
    """Which file the database is; None where there is none."""
    with suppress(OSError):
        found = (Path(cache.directory) / "cache.db").stat()
        return found.st_dev, found.st_ino
    return None


def opened(path: Path) -> Any:  # noqa: ANN401 - diskcache has no types
    """The database at *path*, which is made where there is none. Raises DAMAGE."""
    _check(path)  # first: diskcache takes its own settings from the database, and fails in any way over damaged ones
    try:
        cache = diskcache.Cache(
            str(path),
            timeout=_BUSY_SECONDS,
            disk=_JsonOnly,
            eviction_policy="none",
            cull_limit=0,
            disk_min_file_size=2**24,  # rows stay in the database: a file beside it would be a second thing to sync
            sqlite_synchronous=1,
        )
    except (AttributeError, LookupError) as error:
        raise sqlite3.DatabaseError(f"its settings are none: {error}") from error
    try:
        cache.get("uses 00")
    except BaseException:
        cache.close()
        raise
    return cache


def _check(path: Path) -> None:
    """SQLite sees damage only where it reads; a ledger damaged elsewhere would fail, row by row, for ever.

    Raises:
        sqlite3.DatabaseError
    """
    if not (path / "cache.db").exists():
        return
    with closing(sqlite3.connect(path / "cache.db", timeout=_BUSY_SECONDS)) as database:
        (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(" ".join(str(verdict).split()))


def _remove(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            _remove(child)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
