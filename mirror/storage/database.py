"""The fact database: diskcache over SQLite with text keys and JSON text values, checked before it is opened.

Anyone with write access to the cache directory can plant rows. diskcache by itself unpickles values, opens and removes
the files that a row names, and takes its attributes and SQLite's pragmas from a table of settings. `JsonRows` and
`_require_usable` replace all of that, so a planted row is at worst a missing fact.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import diskcache
import orjson
import structlog
from diskcache.core import DEFAULT_SETTINGS, METADATA, MODE_RAW, UNKNOWN

from mirror.errors import StorageFailed

SCHEMA_KEY = "meta schema"
SCHEMA = 1
DAMAGE = (sqlite3.Error, OSError, EOFError, ValueError, TypeError, RecursionError, OverflowError)
"""The exceptions that a damaged or unreadable database causes."""

_BUSY_SECONDS = 10
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_PROBE_BYTES = 2**18  # an upper bound for what opening a database writes
_MAX_VALUE = 2**23  # bytes of one value; a manifest has at most 4 MiB, and its row is smaller
_CHECKED_AT_START = 2**26  # bytes; checking a larger database would delay the start, so that is done afterwards
_COLUMNS = "key, CASE WHEN mode = 1 AND filename IS NULL AND typeof(value) = 'text' THEN value END"
_RANGE = f"SELECT {_COLUMNS} FROM Cache WHERE key >= ? AND key < ? AND raw = 1"  # noqa: S608 - a constant
_SCAN = f"SELECT {_COLUMNS} FROM Cache NOT INDEXED WHERE key >= ? AND key < ? AND raw = 1"  # noqa: S608 - a constant
_SETTINGS = {
    "eviction_policy": "none",
    "cull_limit": 0,
    "statistics": 0,
    "tag_index": 1,
    "sqlite_mmap_size": 0,  # a mapped file that is truncated meanwhile would end the process with SIGBUS
    "sqlite_synchronous": 1,
}
"""Settings that differ from diskcache's. All settings are passed: it takes every other one from the database."""
_SETTING_NAMES = {name.encode() for name in (*DEFAULT_SETTINGS, *METADATA)}
log = structlog.get_logger()


class RowInvalid(Exception):
    """A row that this program did not write: another mode, a file name, or a value that is not JSON text."""


class SchemaDiffers(Exception):
    """The rows of the database have another schema than this version writes."""


class JsonRows(diskcache.Disk):  # type: ignore[misc,no-any-unimported]  # diskcache has no types
    """The row format: the key as text, the value as JSON text inside the row. Never a pickle, never a file."""

    def put(self, key: object) -> tuple[str, bool]:
        """Return the columns `key` and `raw`."""
        if not isinstance(key, str):
            raise TypeError(f"the key {key!r} is not text")
        return key, True

    def get(self, key: object, raw: object) -> str:
        """Return the key of a row.

        Raises:
            RowInvalid: if the key is not text.
        """
        if not raw or not isinstance(key, str):
            raise RowInvalid("the key is not text")
        return key

    def store(self, value: object, read: bool, key: object = UNKNOWN) -> tuple[int, int, None, str]:  # noqa: ARG002
        """Return the columns `size`, `mode`, `filename` and `value`."""
        if read:
            raise TypeError("values are never read from a file")
        return 0, MODE_RAW, None, orjson.dumps(value).decode()

    def fetch(self, mode: object, filename: object, value: object, read: bool) -> object:
        """Return the value of a row.

        Raises:
            RowInvalid: if this program did not write the row.
        """
        if read or mode != MODE_RAW or filename is not None or not isinstance(value, str):
            raise RowInvalid("the value is not JSON text inside the row")
        return decoded(value)

    def filename(self, key: object = UNKNOWN, value: object = UNKNOWN) -> tuple[str, str]:  # noqa: ARG002
        """Refuse to name a file: no value is kept in one."""
        raise TypeError("values are never kept in files")

    def remove(self, file_path: object) -> None:
        """Do nothing: a path in a row was not written by this program."""


def decoded(text: str | bytes) -> object:
    """Return the JSON value in *text*.

    Raises:
        RowInvalid: if it is not JSON, or longer than any row that this program writes.
    """
    if len(text) > _MAX_VALUE:
        raise RowInvalid("the value is too large")
    try:
        return orjson.loads(text)
    except ValueError as error:
        raise RowInvalid("the value is not JSON") from error


def open_or_replace(path: Path) -> tuple[Any, str | None]:
    """Open the database at *path*. A damaged one, or one of another schema, is put aside and replaced by a new one.

    Returns:
        the database, and why the one that was there was replaced; None if it was not.

    Raises:
        StorageFailed: if it is in use, or the directory can't be written: the database may be intact then. Also if
            diskcache would expand variables in the path, and use another directory.
    """
    if os.path.expandvars(path) != str(path):
        raise StorageFailed(
            f"the path of the cache directory, {path.parent}, contains an environment variable, and diskcache would "
            f"use its value: choose another directory with --cache"
        )
    try:
        return opened(path), None
    except SchemaDiffers as error:
        return renewed(path, None), str(error)
    except DAMAGE as error:
        if not path.exists() or not _is_writable(path.parent) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY:
            raise StorageFailed(f"the fact database {path} can't be opened: {error}; fix that first") from error
        reason = f"it was damaged: {error}"
        log.warning("facts_damaged", path=str(path), put_aside=str(_aside(path)), error=str(error))
        return renewed(path, None), reason


def _is_writable(directory: Path) -> bool:
    """Return whether the directory takes as many bytes as opening writes. If not, the database may be intact."""
    probe = directory / "ledger.probe"
    try:
        probe.unlink(missing_ok=True)
        with probe.open("xb") as file:  # never through a link
            file.write(bytes(_PROBE_BYTES))
    except OSError:
        return False
    finally:
        with suppress(OSError):
            probe.unlink()
    return True


def renewed(path: Path, cache: Any) -> Any:  # noqa: ANN401 - diskcache has no types
    """Put aside the database at *path* and return a new one in its place.

    Args:
        cache: the old database, to be closed; None if it could not be opened.

    Raises:
        StorageFailed: if no new one can be created.
    """
    aside = _aside(path)
    try:
        if cache is not None:
            cache.close()
        if path.exists():
            _remove(aside)
            path.rename(aside)
        return opened(path)
    except (*DAMAGE, SchemaDiffers) as error:
        raise StorageFailed(f"the fact database {path} is damaged and can't be replaced: {error}; remove it") from error


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.damaged")


def identity_of(cache: Any) -> tuple[int, int] | None:  # noqa: ANN401 - diskcache has no types
    """Return device and inode of the database file; None if there is none."""
    with suppress(OSError):
        found = (Path(cache.directory) / "cache.db").stat()
        return found.st_dev, found.st_ino
    return None


def opened(path: Path) -> Any:  # noqa: ANN401 - diskcache has no types
    """Open the database at *path*, or create it.

    Raises:
        SchemaDiffers: if it holds rows of another schema.
        DAMAGE (any of these): if it is damaged, or can't be read or written.
    """
    # First: diskcache takes its own settings from the database, and fails in any way over damaged ones.
    _require_usable(path)
    try:
        cache = diskcache.Cache(str(path), timeout=_BUSY_SECONDS, disk=JsonRows, **{**DEFAULT_SETTINGS, **_SETTINGS})
    except (AttributeError, LookupError) as error:
        raise sqlite3.DatabaseError(f"its settings are damaged: {error}") from error
    try:
        if cache.get(SCHEMA_KEY) is None:
            cache.set(SCHEMA_KEY, {"version": SCHEMA})
    except BaseException:
        cache.close()
        raise
    return cache


def _require_usable(path: Path) -> None:
    """Require that a database, if it exists, is not damaged and has this schema.

    Raises:
        SchemaDiffers: if its rows have another schema.
        sqlite3.Error: if it is damaged.
    """
    file = path / "cache.db"
    if not file.exists():
        return
    if file.stat().st_size <= _CHECKED_AT_START:
        require_intact(path)
    with closing(sqlite3.connect(file, timeout=_BUSY_SECONDS)) as database:
        database.text_factory = bytes
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
        if b"Settings" in tables:
            names = {name for (name,) in database.execute("SELECT key FROM Settings")}
            if not names <= _SETTING_NAMES:  # diskcache would set an attribute or a pragma of that name
                raise sqlite3.DatabaseError("it has settings of another program")
        if b"Cache" not in tables or not database.execute("SELECT 1 FROM Cache LIMIT 1").fetchone():
            return
        row = database.execute("SELECT value FROM Cache WHERE key = ? AND raw = 1", (SCHEMA_KEY,)).fetchone()
        database.execute(_RANGE, ("pin ", "pin!")).fetchall()  # unreadable pins must not be taken for none
    try:
        found = None if row is None or not isinstance(row[0], bytes) else decoded(row[0])
    except RowInvalid:
        found = None
    if not isinstance(found, dict) or found.get("version") != SCHEMA:
        raise SchemaDiffers("its rows were written by another version")


def needs_later_check(path: Path) -> bool:
    """Return whether the database was too large to be checked at the start."""
    with suppress(OSError):
        return (path / "cache.db").stat().st_size > _CHECKED_AT_START
    return False


def require_intact(path: Path) -> None:
    """Require that no page is damaged. SQLite notices damage only where it reads, so a damaged row could fail for ever.

    Raises:
        sqlite3.Error: if the database is damaged.
    """
    with closing(sqlite3.connect(path / "cache.db", timeout=_BUSY_SECONDS)) as database:
        (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(" ".join(str(verdict).split()))


def checkpoint(path: Path) -> None:
    """Copy the write-ahead log into the database file, and sync that.

    Raises:
        sqlite3.Error: if that fails, or a reader prevents it.
    """
    with closing(sqlite3.connect(path / "cache.db", timeout=_BUSY_SECONDS)) as database:
        (is_busy, _, _) = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if is_busy:
        raise sqlite3.OperationalError("its write-ahead log is in use")


def rows_of(path: Path, prefix: str) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield key and JSON text of every row whose key begins with *prefix*; None for a row that is not JSON text.

    diskcache can only iterate over all keys. This is a range query on its index of keys, on a connection of its own:
    it takes time for the rows that it yields and not for the others, and holds one row in memory at a time.

    Raises:
        sqlite3.Error: if the database is damaged, or can't be read.
    """
    return _rows(path, _RANGE, prefix)


def blob_rows(path: Path) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield the rows of all blobs, in any order.

    Most rows are of blobs, and in the order of keys each of them would be a random access: this reads the table from
    beginning to end, which takes less than half the time.

    Raises:
        sqlite3.Error: if the database is damaged, or can't be read.
    """
    return _rows(path, _SCAN, "blob ")


def _rows(path: Path, query: str, prefix: str) -> Iterator[tuple[bytes, bytes | None]]:
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    uri = f"{(path / 'cache.db').absolute().as_uri()}?mode=rw"  # never creates a file
    with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS)) as database:
        database.text_factory = bytes  # or one row that is not UTF-8 would end the iteration
        yield from database.execute(query, (prefix, end))


def _remove(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            _remove(child)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
