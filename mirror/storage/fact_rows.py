"""Rows of the fact database, as a key-value store of JSON objects that keeps working while the disk is full.

A damaged row counts as absent: every fact can be learned from the upstream or rebuilt from the cache directory. A row
that can't be written is kept in memory, up to a limit, and written later.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar

import diskcache
import structlog

from mirror.errors import StorageFailed
from mirror.observability.log import RateLimitedLog
from mirror.oci.digest import Digest
from mirror.storage import database
from mirror.storage.database import DAMAGE, RowInvalid

_Result = TypeVar("_Result")
Rows = Mapping[str, tuple[Mapping[str, object] | None, str | None]]
"""By key: the value (None to delete the row), and the digest that the row is about."""

BATCH = 1000  # rows of one transaction, about 50 ms: reads wait for it
_MAX_UNWRITTEN = 65_536  # rows, about 30 MiB; above it the oldest are forgotten
log = structlog.get_logger()


class FactRows:
    """The rows of one database. All SQLite calls run on one thread, in the order in which they were made.

    Attributes:
        replaced: why the database was replaced by a new one; None if it was not.
    """

    def __init__(self, cache: Any, thread: ThreadPoolExecutor, replaced: str | None = None) -> None:  # noqa: ANN401 - diskcache has no types
        self._cache = cache
        self._thread = thread
        self._path = Path(cache.directory)
        self._identity = database.identity_of(cache)
        self._damage: str | None = None
        self._last_error = ""
        self._is_checked = not database.needs_later_check(self._path)
        self._unwritten: OrderedDict[str, tuple[Mapping[str, object] | None, str | None]] = OrderedDict()
        self._undeleted = set[str]()  # digests whose rows could not be deleted; for the fact thread
        self._is_synced = True  # whether the last fsync succeeded
        self._listeners: list[Callable[[AbstractSet[Digest]], None]] = []
        self._invalid_reported = False
        self._rate_limited_log = RateLimitedLog(log)
        self.replaced = replaced

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[Self]:
        """Open the database at *path*, or create it. An unreadable one is put aside and replaced.

        Raises:
            StorageFailed: if not even a new one can be created.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="facts")  # one thread: SQLite has one writer anyway
        loop = asyncio.get_running_loop()
        try:
            cache, replaced = await loop.run_in_executor(thread, database.open_or_replace, path)
            facts = cls(cache, thread, replaced)
            try:
                yield facts
            finally:
                await facts._write_unwritten()
                await loop.run_in_executor(thread, facts._cache.close)
        finally:
            thread.shutdown()

    # Rows

    async def _run(self, call: Callable[[], _Result], otherwise: _Result, *, key: str) -> _Result:
        running = asyncio.get_running_loop().run_in_executor(self._thread, call)
        try:
            return await asyncio.shield(running)  # the caller's cancellation must not cancel a queued write
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise
        except (*DAMAGE, diskcache.Timeout) as error:
            self._note_failure(error, key)
            return otherwise

    def _note_failure(self, error: Exception, key: str) -> None:
        self._last_error = str(error) or type(error).__name__
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            self._damage = str(error)
        self._rate_limited_log.warning("facts_failed", str(error), key=key, error=str(error))

    def _report_invalid(self, key: str, count: int = 1) -> None:
        """Log rows that this program did not write, once for each store."""
        if not self._invalid_reported:
            self._invalid_reported = True
            log.warning("facts_invalid", rows=count, first=key, path=str(self._path))

    def _read(self, key: str) -> object:
        """Return the value of a row. On the fact thread."""
        if key in self._unwritten:
            return self._unwritten[key][0]
        try:
            return self._cache.get(key)
        except RowInvalid:
            self._report_invalid(key)
            return None

    async def _get(self, key: str) -> object:
        if key in self._unwritten:
            return self._unwritten[key][0]
        return await self._run(lambda: self._read(key), None, key=key)

    async def _get_fact(self, key: str, parse: Callable[[object], _Result | None]) -> _Result | None:
        return self._parsed(key, await self._get(key), parse)

    def _read_fact(self, key: str, parse: Callable[[object], _Result | None]) -> _Result | None:
        """Return the fact in a row. On the fact thread."""
        return self._parsed(key, self._read(key), parse)

    def _parsed(self, key: str, row: object, parse: Callable[[object], _Result | None]) -> _Result | None:
        fact = parse(row)
        if fact is None and row is not None:
            self._report_invalid(key)
        return fact

    async def _set(self, key: str, value: Mapping[str, object] | None, tag: Digest | None = None) -> None:
        row = (value, None if tag is None else str(tag))
        self._unwritten[key] = row  # before the write: it stays there if the write fails or the caller is cancelled
        self._unwritten.move_to_end(key)
        while len(self._unwritten) > _MAX_UNWRITTEN:
            self._unwritten.popitem(last=False)
        if await self._run(lambda: self._write({key: row}), False, key=key) and self._unwritten.get(key) is row:
            del self._unwritten[key]

    def _write(self, rows: Rows) -> bool:
        late = self._undeleted.intersection(tag for _, tag in rows.values() if tag is not None)
        with self._cache.transact():
            for text in late:  # first: a later deletion would take the new row too
                self._cache.evict(text)
            for key, (value, tag) in rows.items():
                if value is None:
                    self._cache.delete(key)
                else:
                    self._cache.set(key, value, tag=tag)
        self._undeleted -= late
        return True

    async def _write_unwritten(self) -> bool:
        """Write and delete the rows for which that failed. Return whether it succeeded; later rows don't matter."""
        if self._undeleted and not await self._run(self._delete_undeleted, False, key="deletions"):
            return False
        rows = dict(self._unwritten)
        if rows and not await self._run(lambda: self._write(rows), False, key=f"{len(rows)} rows"):
            return False
        for key, row in rows.items():
            if self._unwritten.get(key) is row:
                del self._unwritten[key]
        return True

    async def _list(self, prefix: str) -> list[tuple[str, object]]:
        """Return key and value of every row whose key begins with *prefix*."""

        def read() -> dict[str, object]:
            found = dict(self._rows(prefix))
            for key, (value, _) in tuple(self._unwritten.items()):
                if key.startswith(prefix):
                    found[key] = value
            return found

        none: dict[str, object] = {}
        found = await self._run(read, none, key=f"{prefix}…")
        return [(key, value) for key, value in found.items() if value is not None]

    def _rows(self, prefix: str) -> Iterator[tuple[str, object]]:
        """Yield key and value of every valid row whose key begins with *prefix*. On the fact thread."""
        with self._invalid_rows() as invalid:
            for key, text in database.rows_of(self._path, prefix):
                value = None
                with suppress(RowInvalid, UnicodeDecodeError):
                    name, value = key.decode(), None if text is None else database.decoded(text)
                if value is None:
                    invalid.append(key)
                else:
                    yield name, value

    @contextmanager
    def _invalid_rows(self) -> Iterator[list[object]]:
        """Collect the keys of invalid rows, and report them at the end."""
        invalid: list[object] = []
        yield invalid
        if invalid:
            first = invalid[0]
            self._report_invalid(
                first.decode(errors="replace") if isinstance(first, bytes) else str(first), len(invalid)
            )

    # Removed content

    def forget_content(self, digests: Iterable[Digest]) -> None:
        """Delete all facts about content that was removed: size and last use, manifest, and rights.

        Returns at once. Facts that are kept after this call are written after the deletion.
        """
        removed = frozenset(digests)
        for forgotten in self._listeners:
            forgotten(removed)
        texts = list(map(str, removed))
        if self._unwritten:
            tags = set(texts)
            for key in [key for key, (_, tag) in self._unwritten.items() if tag in tags]:
                del self._unwritten[key]
        for at in range(0, len(texts), BATCH):
            asyncio.get_running_loop().run_in_executor(self._thread, self._forget, texts[at : at + BATCH])

    def listen(self, forgotten: Callable[[AbstractSet[Digest]], None]) -> None:
        self._listeners.append(forgotten)

    def _forget(self, texts: Sequence[str]) -> None:
        """Delete all rows about these digests; later, if it fails. On the fact thread."""
        try:
            self._delete_about(texts)
        except (*DAMAGE, diskcache.Timeout) as error:
            self._note_failure(error, texts[0])
            if len(self._undeleted) < _MAX_UNWRITTEN:  # of the others, the next start finds the blobs missing
                self._undeleted.update(texts)

    def _delete_undeleted(self) -> bool:
        while texts := tuple(islice(self._undeleted, BATCH)):
            self._delete_about(texts)
            self._undeleted.difference_update(texts)
        return True

    def _delete_about(self, texts: Iterable[str]) -> None:
        with self._cache.transact():
            for text in texts:
                self._cache.evict(text)

    # Durability and repair

    async def sync(self) -> None:
        """Make everything written so far survive a power failure.

        A commit alone does not: with `synchronous = NORMAL` SQLite syncs its write-ahead log only at checkpoints.

        Raises:
            StorageFailed: if a row could not be written, or not be synced.
        """
        if not await self._write_unwritten():
            raise StorageFailed(
                f"the fact database {self._path} can't be written: {self._last_error}; check the disk, its free space "
                f"and permissions"
            )
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._sync)
        except (OSError, sqlite3.Error) as error:
            raise StorageFailed(f"the fact database {self._path} can't be synced: {error}; check its disk") from error

    def _sync(self) -> None:
        is_repeated, self._is_synced = not self._is_synced, False
        if is_repeated:  # Linux reports a failed write once, and then counts those pages as written: write them again
            database.checkpoint(self._path)
        for path in (self._path / "cache.db-wal", self._path, self._path.parent):  # the directories: for new files
            with suppress(FileNotFoundError):  # a write-ahead log that was just checkpointed is synced
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        self._is_synced = True

    async def mend(self) -> None:
        """Write the rows that could not be written before. Replace a database that is gone or damaged by a new one.

        Raises:
            StorageFailed: if it can't be replaced.
        """
        if not self._is_checked:
            self._is_checked = True
            await asyncio.to_thread(self._check)
        reason = self._damage
        if reason is None and database.identity_of(self._cache) != self._identity:
            reason = "the file of the fact database was removed or replaced"
        if reason is not None:
            log.warning("facts_damaged", path=str(self._path), error=reason)
            self._cache = await asyncio.get_running_loop().run_in_executor(
                self._thread, database.renewed, self._path, self._cache
            )
            self._identity, self._damage, self.replaced = database.identity_of(self._cache), None, reason
            self._undeleted.clear()
        await self._write_unwritten()

    def _check(self) -> None:
        try:
            database.require_intact(self._path)
        except sqlite3.OperationalError as error:
            log.info("facts_not_checked", error=str(error))
        except sqlite3.Error as error:
            self._damage = str(error)
