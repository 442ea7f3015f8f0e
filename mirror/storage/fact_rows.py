"""Rows of the fact database, as a key-value store of JSON objects that keeps working while the disk is full.

A damaged row counts as absent: every fact can be learned from the upstream or rebuilt from the cache directory. A row
that can't be written is kept in memory, up to a limit, and written later. A list that can't be read is a failure: it
must not be taken for an empty one, because content without facts is removed.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import sqlite3
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import diskcache
import structlog

from mirror.errors import StorageFailed
from mirror.observability.log import RateLimitedLog
from mirror.oci.digest import Digest
from mirror.storage import database
from mirror.storage.database import DAMAGE, RowInvalid
from mirror.storage.pending_deletions import PendingDeletions

_Result = TypeVar("_Result")
_Fact = TypeVar("_Fact")
BATCH = 1000  # rows of one transaction, about 50 ms: reads wait for it
_MAX_UNWRITTEN = 65_536  # rows, about 30 MiB; above it the oldest are forgotten
_DELETED_AT_ONCE = 100  # digests, about 20 ms: reads come in between


class Row(NamedTuple):
    """A row to write.

    Attributes:
        value: None to delete the row.
        tag: the digest that the row is about; None if it is about no content.
        order: of two changes, the later one has the higher number.
    """

    value: Mapping[str, object] | None
    tag: str | None
    order: int


Rows = Mapping[str, Row]
"""Rows to write, by key."""

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
        self._orders = itertools.count()
        self._unwritten: OrderedDict[str, Row] = OrderedDict()
        self._deletions = PendingDeletions()
        self._is_synced = True  # whether the last fsync succeeded
        self._listeners: list[Callable[[AbstractSet[Digest]], None]] = []
        self._on_replaced: list[Callable[[], None]] = []
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
                await loop.run_in_executor(thread, facts._close)
        finally:
            thread.shutdown()

    def _close(self) -> None:
        try:
            if self._deletions:
                self._delete(None)
        except (*DAMAGE, diskcache.Timeout) as error:
            self._note_failure(error, "deletions")  # the next start finds the content missing
        self._cache.close()

    # Rows

    async def _run(self, call: Callable[[], _Result], *, key: str) -> _Result:
        """Return the result of *call* on the fact thread.

        Raises:
            StorageFailed: if the database can't be read or written.
        """
        running = asyncio.get_running_loop().run_in_executor(self._thread, call)
        try:
            return await asyncio.shield(running)  # the caller's cancellation must not cancel a queued write
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise
        except (*DAMAGE, diskcache.Timeout) as error:
            self._note_failure(error, key)
            raise StorageFailed(
                f"the fact database {self._path} can't be used: {self._last_error}; check the disk, its free space and "
                f"permissions"
            ) from error

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
        if (unwritten := self._unwritten.get(key)) is not None:
            return unwritten.value
        if self._deletions.has_key(key):
            return None
        try:
            return self._cache.get(key)
        except RowInvalid:
            self._report_invalid(key)
            return None

    async def _get(self, key: str) -> object:
        """Return the value of a row; None if there is none, or it can't be read."""
        if (unwritten := self._unwritten.get(key)) is not None:
            return unwritten.value
        with suppress(StorageFailed):
            return await self._run(lambda: self._read(key), key=key)
        return None

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
        await self._set_all({key: Row(value, None if tag is None else tag.text, next(self._orders))})

    async def _set_all(self, rows: Rows) -> None:
        for key, row in rows.items():
            self._unwritten[key] = row  # first: it stays there if the write fails or the caller is cancelled
            self._unwritten.move_to_end(key)
        while len(self._unwritten) > _MAX_UNWRITTEN:
            self._unwritten.popitem(last=False)
        for at in range(0, len(rows), BATCH):
            await self._write_set(dict(islice(rows.items(), at, at + BATCH)))

    async def _write_set(self, rows: Rows) -> bool:
        """Write rows that are in `_unwritten`. Return whether that succeeded."""
        with suppress(StorageFailed):
            await self._run(lambda: self._write(rows), key=next(iter(rows)))
            for key, row in rows.items():
                if self._unwritten.get(key) is row:
                    del self._unwritten[key]
            return True
        return False

    def _write(self, rows: Rows) -> None:
        """Write rows, after deletions that were to happen before. On the fact thread."""
        due: dict[str, int] = {}
        with self._cache.transact():
            for key, row in rows.items():
                deleted = self._deletions.order(row.tag)
                if deleted is not None and deleted > row.order:
                    continue  # the content was removed after this fact was learned
                if row.tag is not None and deleted is not None and row.tag not in due:
                    due[row.tag] = deleted
                    self._cache.evict(row.tag)
                if row.value is None:
                    self._cache.delete(key)
                else:
                    self._cache.set(key, row.value, tag=row.tag)
        self._deletions.remove(due)

    async def _write_unwritten(self) -> bool:
        """Write the rows for which that failed. Return whether it succeeded; rows set meanwhile don't matter."""
        rows = dict(self._unwritten)
        return not rows or await self._write_set(rows)

    async def _list(
        self, prefix: str, parse: Callable[[str, object], _Fact | None], collect: Callable[[Iterable[_Fact]], _Result]
    ) -> _Result:
        """Return the facts in all rows whose key begins with *prefix*. Rows without one count as absent.

        Args:
            parse: returns the fact in a row, from key and value. On the fact thread.
            collect: returns the result. On the fact thread.

        Raises:
            StorageFailed: if the rows can't be read.
        """

        def read() -> _Result:
            found: dict[str, _Fact] = {}
            with self._invalid_rows() as invalid:
                for key, value in self._rows(prefix):
                    if self._deletions.has_key(key):
                        continue
                    fact = parse(key, value)
                    if fact is None:
                        invalid.append(key)
                    else:
                        found[key] = fact
            for key, row in tuple(self._unwritten.items()):
                if key.startswith(prefix):
                    fact = None if row.value is None else parse(key, row.value)
                    if fact is None:
                        found.pop(key, None)
                    else:
                        found[key] = fact
            return collect(found.values())

        return await self._run(read, key=f"{prefix}…")

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

        Returns at once, and the facts are unknown from then on. Facts that are kept after this call stay.
        """
        removed = frozenset(digests)
        for forgotten in self._listeners:
            forgotten(removed)
        tags = {digest.text for digest in removed}
        for key in [key for key, row in self._unwritten.items() if row.tag in tags]:
            del self._unwritten[key]
        self._deletions.add(tags, next(self._orders))
        self._delete_later()

    def listen(self, forgotten: Callable[[AbstractSet[Digest]], None], replaced: Callable[[], None]) -> None:
        self._listeners.append(forgotten)
        self._on_replaced.append(replaced)

    def _delete_later(self) -> None:
        if self._deletions.begin():
            self._thread.submit(self._delete_some)

    def _delete_some(self) -> None:
        """Delete the rows about some digests, and queue the rest behind the reads that wait. On the fact thread."""
        try:
            self._delete(_DELETED_AT_ONCE)
        except (*DAMAGE, diskcache.Timeout) as error:
            self._note_failure(error, "deletions")
            self._deletions.end()  # maintenance tries again
        else:
            if self._deletions.proceed():
                self._thread.submit(self._delete_some)

    def _delete(self, count: int | None) -> None:
        some = self._deletions.some(count)
        with self._cache.transact():
            for tag in some:
                self._cache.evict(tag)
        self._deletions.remove(some)

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
        if database.identity_of(self._cache) != self._identity:
            raise OSError(errno.ENOENT, "another program removed or replaced it")
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
            self._deletions.clear()
            for replaced in self._on_replaced:
                replaced()
        self._delete_later()
        await self._write_unwritten()

    def _check(self) -> None:
        try:
            database.require_intact(self._path)
        except sqlite3.OperationalError as error:
            log.info("facts_not_checked", error=str(error))
        except sqlite3.Error as error:
            self._damage = str(error)
