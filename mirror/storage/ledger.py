"""The ledger on disk: facts in diskcache, as JSON.

Never as pickles: whoever can write to the cache directory could then run code in the mirror. diskcache's JSONDisk
writes none but would still read one, so `_JsonOnly` refuses them.

Keys:  tag <repository>:<tag>      [digest, checked]
       manifest <digest>           [media type, [digest referenced, …]]
       holdings <repository>       [digest, …]
       uses <two hex digits>       {digest: last use}      256 rows rather than one a blob: they load in no time
"""

from __future__ import annotations

import asyncio
import sqlite3
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import diskcache
import structlog
from diskcache.core import MODE_PICKLE

from mirror.errors import DigestInvalid, StorageFailed
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.policy import TagFact
from mirror.storage import ManifestFact

_Result = TypeVar("_Result")
_DAMAGE = (sqlite3.Error, zlib.error, OSError, EOFError, ValueError, TypeError, RecursionError, OverflowError)
_BUSY_SECONDS = 10
_LATEST = 1e15  # seconds; what is written as later was written by nobody with a clock
log = structlog.get_logger()


class _JsonOnly(diskcache.JSONDisk):  # type: ignore[misc,no-any-unimported]  # diskcache has no types
    def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> object:
        if mode == MODE_PICKLE:
            raise ValueError("the ledger holds a pickle, which the mirror never writes")
        return super().fetch(mode, filename, value, read)


class DiskLedger:
    """Facts in `<cache>/ledger`. What is damaged counts as unknown: every fact can be had again from upstream."""

    def __init__(self, cache: Any, thread: ThreadPoolExecutor) -> None:  # noqa: ANN401 - diskcache has no types
        self._cache = cache
        self._thread = thread

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[DiskLedger]:
        """Opens the ledger at *path*; one that can't be read is put aside, and a new one begun.

        Raises:
            StorageFailed: not even a new one can be made.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")  # one thread: SQLite has one writer anyway
        loop = asyncio.get_running_loop()
        try:
            cache = await loop.run_in_executor(thread, _open_or_renew, path)
            try:
                yield cls(cache, thread)
            finally:
                await loop.run_in_executor(thread, cache.close)
        finally:
            thread.shutdown()

    async def _run(self, call: Callable[[], _Result], otherwise: _Result, *, key: str) -> _Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)
        except (*_DAMAGE, diskcache.Timeout) as error:
            log.warning("ledger_failed", key=key, error=str(error))
            return otherwise

    async def _get(self, key: str) -> Any:  # noqa: ANN401 - JSON; each caller checks what it takes
        return await self._run(lambda: self._cache.get(key), None, key=key)

    async def _set(self, key: str, value: object) -> None:
        await self._run(lambda: self._cache.set(key, value), False, key=key)

    async def tag(self, repository: Repository, tag: Tag) -> TagFact | None:
        match await self._get(f"tag {repository}:{tag}"):
            case [str(digest), checked]:
                parsed, moment = _digest(digest), _moment(checked)
                return None if parsed is None or moment is None else TagFact(parsed, moment)
        return None

    async def keep_tag(self, repository: Repository, tag: Tag, fact: TagFact) -> None:
        await self._set(f"tag {repository}:{tag}", [str(fact.digest), fact.checked])

    async def drop_tag(self, repository: Repository, tag: Tag) -> None:
        key = f"tag {repository}:{tag}"
        await self._run(lambda: self._cache.delete(key), False, key=key)

    async def manifest(self, digest: Digest) -> ManifestFact | None:
        return _manifest_fact(await self._get(f"manifest {digest}"))

    async def manifests(self, digests: Iterable[Digest]) -> Mapping[Digest, ManifestFact]:
        def read() -> dict[Digest, ManifestFact]:
            found = ((digest, _manifest_fact(self._cache.get(f"manifest {digest}"))) for digest in digests)
            return {digest: fact for digest, fact in found if fact is not None}

        none: dict[Digest, ManifestFact] = {}
        return await self._run(read, none, key="manifest …")

    async def keep_manifest(self, digest: Digest, fact: ManifestFact) -> None:
        await self._set(f"manifest {digest}", [fact.media_type, [str(one) for one in fact.references]])

    async def holdings(self, repository: Repository) -> frozenset[Digest]:
        found = await self._get(f"holdings {repository}")
        return frozenset(_digests(found)) if isinstance(found, list) else frozenset()

    async def keep_holdings(self, repository: Repository, digests: Iterable[Digest]) -> None:
        await self._set(f"holdings {repository}", sorted(map(str, digests)))

    async def uses(self) -> Mapping[Digest, float]:
        def read() -> list[object]:
            return [self._cache.get(f"uses {shard:02x}") for shard in range(256)]

        none: list[object] = []
        return {
            digest: moment
            for row in await self._run(read, none, key="uses")
            if isinstance(row, dict)
            for text, used in row.items()
            if (moment := _moment(used)) is not None and (digest := _digest(text)) is not None
        }

    async def keep_uses(self, uses: Mapping[Digest, float]) -> None:
        def write() -> None:
            shards: dict[str, dict[str, float]] = defaultdict(dict)
            for digest, used in uses.items():
                shards[digest.hex[:2]][str(digest)] = round(used, 3)
            for number in range(256):
                shard = f"{number:02x}"
                key, row = f"uses {shard}", shards.get(shard)
                if row is None:
                    self._cache.delete(key)
                elif self._cache.get(key) != row:
                    self._cache.set(key, row)

        await self._run(write, None, key="uses")


def _open_or_renew(path: Path) -> Any:  # noqa: ANN401 - diskcache has no types
    try:
        return _open(path)
    except _DAMAGE as error:
        if not path.exists():
            raise StorageFailed(f"the ledger {path} can't be made: {error}") from error
        aside = path.with_name(f"{path.name}.damaged")
        log.warning("ledger_damaged", path=str(path), put_aside=str(aside), error=str(error))
        try:
            _remove(aside)
            path.rename(aside)
            return _open(path)
        except _DAMAGE as second:
            raise StorageFailed(f"the ledger {path} is damaged and can't be renewed: {second}") from second


def _open(path: Path) -> Any:  # noqa: ANN401 - diskcache has no types
    cache = diskcache.Cache(
        str(path),
        timeout=_BUSY_SECONDS,
        disk=_JsonOnly,
        eviction_policy="none",
        cull_limit=0,
        disk_min_file_size=2**24,  # rows stay in the database: a file beside it would be a second thing to sync
        sqlite_synchronous=1,
    )
    cache.get("uses 00")
    return cache


def _remove(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            _remove(child)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _manifest_fact(row: object) -> ManifestFact | None:
    match row:
        case [str(media_type), list(references)]:
            return ManifestFact(media_type, tuple(_digests(references)))
    return None


def _digests(texts: Iterable[object]) -> Iterable[Digest]:
    return (digest for digest in map(_digest, texts) if digest is not None)


def _moment(value: object) -> float | None:
    return float(value) if isinstance(value, float | int) and 0 <= value <= _LATEST else None


def _digest(text: object) -> Digest | None:
    try:
        return Digest.parse(text) if isinstance(text, str) else None
    except DigestInvalid:
        return None
