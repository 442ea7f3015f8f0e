"""The ledger on disk: facts in diskcache, as JSON.

Never as pickles: whoever can write to the cache directory could then run code in the mirror. diskcache's JSONDisk
writes none but would still read one, so the database refuses them (see database).

Keys:  tag <repository>:<tag>      [digest, checked]
       manifest <digest>           [media type, [digest referenced, …]]
       holdings <repository>       [digest, …]
       pins                        [[upstream, repository, tag or digest], …]
       uses <two hex digits>       {digest: last use}      256 rows rather than one a blob: they load in no time
       whole                       true                    what could be found out from the blobs is in it
       scrubbed                    digest                  where the search for damage got to
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import diskcache
import structlog

from mirror.errors import DigestInvalid, TagInvalid
from mirror.observability.log import RateLimitedLog
from mirror.oci.digest import Digest
from mirror.oci.image_names import Image
from mirror.oci.names import Repository, Tag, parse_reference
from mirror.storage.database import DAMAGE, identity_of, open_or_replace, opened, renewed
from mirror.storage.facts import ManifestFact, TagFact

_Result = TypeVar("_Result")
_MOST_UNWRITTEN = 65_536  # rows, about 30 MiB; above it the oldest are forgotten
_LATEST = 1e15  # seconds; what is written as later was written by nobody with a clock
log = structlog.get_logger()


class DiskLedger:
    """Facts in `<cache>/ledger`. What is damaged counts as unknown: every fact can be had again from upstream.

    What can't be written is known from memory, and written when that is possible again.
    """

    def __init__(self, cache: Any, thread: ThreadPoolExecutor) -> None:  # noqa: ANN401 - diskcache has no types
        self._cache = cache
        self._thread = thread
        self._identity = identity_of(cache)
        self._damage: str | None = None
        self._unwritten: dict[str, object] = {}  # rows by key; None where one is to be deleted
        self._rate_limited_log = RateLimitedLog(log)

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
            ledger = cls(await loop.run_in_executor(thread, open_or_replace, path), thread)
            try:
                yield ledger
            finally:
                await ledger._write_unwritten()
                await loop.run_in_executor(thread, ledger._cache.close)
        finally:
            thread.shutdown()

    @classmethod
    @asynccontextmanager
    async def beside(cls, path: Path) -> AsyncIterator[DiskLedger | None]:
        """The ledger at *path*, which a running mirror may use; None where it can't be read: it is left alone."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        loop = asyncio.get_running_loop()
        ledger = None
        try:
            if (path / "cache.db").exists():
                with suppress(*DAMAGE, diskcache.Timeout):
                    ledger = cls(await loop.run_in_executor(thread, opened, path), thread)
            yield ledger
        finally:
            if ledger is not None:
                await loop.run_in_executor(thread, ledger._cache.close)
            thread.shutdown()

    async def _run(self, call: Callable[[], _Result], otherwise: _Result, *, key: str) -> _Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)
        except (*DAMAGE, diskcache.Timeout) as error:
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
                self._damage = str(error)
            self._rate_limited_log.warning("ledger_failed", str(error), key=key, error=str(error))
            return otherwise

    async def _get(self, key: str) -> Any:  # noqa: ANN401 - JSON; each caller checks what it takes
        if key in self._unwritten:
            return self._unwritten[key]
        return await self._run(lambda: self._cache.get(key), None, key=key)

    async def _set(self, key: str, value: object) -> None:
        if await self._run(lambda: self._write({key: value}), False, key=key):
            self._unwritten.pop(key, None)
        else:
            self._unwritten[key] = value
            while len(self._unwritten) > _MOST_UNWRITTEN:
                del self._unwritten[next(iter(self._unwritten))]

    def _write(self, rows: Mapping[str, object]) -> bool:
        with self._cache.transact():
            for key, value in rows.items():
                if value is None:
                    self._cache.delete(key)
                else:
                    self._cache.set(key, value)
        return True

    async def _write_unwritten(self) -> None:
        rows = dict(self._unwritten)
        if not rows:
            return
        if await self._run(lambda: self._write(rows), False, key=f"{len(rows)} rows"):
            for key, value in rows.items():
                if self._unwritten.get(key) is value:
                    del self._unwritten[key]

    async def mend(self) -> None:
        """Writes what could not be written before; begins anew if the database is gone, or found to be damaged.

        Raises:
            StorageFailed: it can't be.
        """
        reason = self._damage or ("it is gone" if identity_of(self._cache) != self._identity else None)
        if reason is not None:
            self._cache = await asyncio.get_running_loop().run_in_executor(
                self._thread, renewed, Path(self._cache.directory), self._cache, reason
            )
            self._identity, self._damage = identity_of(self._cache), None
        await self._write_unwritten()

    async def is_whole(self) -> bool:
        """Whether all that can be found out from the blobs is in it. Not so in one that was begun anew."""
        return await self._get("whole") is True

    async def keep_whole(self) -> None:
        await self._set("whole", True)

    async def scrubbed(self) -> Digest | None:
        """The last blob in which damage was searched for."""
        return _digest(await self._get("scrubbed"))

    async def keep_scrubbed(self, digest: Digest | None) -> None:
        await self._set("scrubbed", None if digest is None else str(digest))

    async def tag(self, repository: Repository, tag: Tag) -> TagFact | None:
        match await self._get(f"tag {repository}:{tag}"):
            case [str(digest), checked]:
                parsed, moment = _digest(digest), _moment(checked)
                return None if parsed is None or moment is None else TagFact(parsed, moment)
        return None

    async def keep_tag(self, repository: Repository, tag: Tag, fact: TagFact) -> None:
        await self._set(f"tag {repository}:{tag}", [str(fact.digest), fact.checked])

    async def drop_tag(self, repository: Repository, tag: Tag) -> None:
        await self._set(f"tag {repository}:{tag}", None)

    async def manifest(self, digest: Digest) -> ManifestFact | None:
        return _manifest_fact(await self._get(f"manifest {digest}"))

    async def manifests(self, digests: Iterable[Digest]) -> Mapping[Digest, ManifestFact]:
        def row(key: str) -> object:
            return self._unwritten[key] if key in self._unwritten else self._cache.get(key)

        def read() -> dict[Digest, ManifestFact]:
            found = ((digest, _manifest_fact(row(f"manifest {digest}"))) for digest in digests)
            return {digest: fact for digest, fact in found if fact is not None}

        none: dict[Digest, ManifestFact] = {}
        return await self._run(read, none, key="manifest …")

    async def keep_manifest(self, digest: Digest, fact: ManifestFact) -> None:
        await self._set(f"manifest {digest}", _manifest_row(fact))

    async def add_manifests(self, facts: Mapping[Digest, ManifestFact]) -> bool:
        """Keeps those of *facts* that are not known better; whether that worked."""
        known = await self.manifests(facts)
        rows = {f"manifest {digest}": _manifest_row(fact) for digest, fact in facts.items() if digest not in known}
        return await self._run(lambda: self._write(rows), False, key="manifest …")

    async def holdings(self, repository: Repository) -> frozenset[Digest]:
        found = await self._get(f"holdings {repository}")
        return frozenset(_digests(found)) if isinstance(found, list) else frozenset()

    async def keep_holdings(self, repository: Repository, digests: Iterable[Digest]) -> None:
        await self._set(f"holdings {repository}", sorted(map(str, digests)))

    async def all_holdings(self) -> Mapping[Repository, frozenset[Digest]]:
        """As `holdings`, of every repository."""
        names = [key.removeprefix("holdings ").partition("/") for key in await self._keys("holdings ")]
        repositories = [Repository(upstream, name) for upstream, _, name in names]
        return {repository: await self.holdings(repository) for repository in repositories}

    async def tags(self, repository: Repository) -> Mapping[Tag, Digest]:
        """All tags of a repository that are known."""
        prefix = f"tag {repository}:"
        tags = [Tag(key.removeprefix(prefix)) for key in await self._keys(prefix)]
        facts = {tag: await self.tag(repository, tag) for tag in tags}
        return {tag: fact.digest for tag, fact in facts.items() if fact is not None}

    async def all_tags(self) -> Mapping[tuple[Repository, Tag], TagFact]:
        """As `tag`, of every tag of every repository."""
        found = {(repository, tag): await self.tag(repository, tag) for repository, tag in await self.tag_names()}
        return {named: fact for named, fact in found.items() if fact is not None}

    async def tag_names(self) -> list[tuple[Repository, Tag]]:
        """All tags of all repositories, without what is known of them."""
        found: list[tuple[Repository, Tag]] = []
        for key in await self._keys("tag "):
            name, _, text = key.removeprefix("tag ").rpartition(":")
            upstream, _, path = name.partition("/")
            found.append((Repository(upstream, path), Tag(text)))
        return found

    async def pins(self) -> frozenset[Image]:
        """The images that are never evicted."""
        found = await self._get("pins")
        rows = found if isinstance(found, list) else []
        return frozenset(image for image in map(_image, rows) if image is not None)

    async def keep_pins(self, images: Iterable[Image]) -> None:
        rows = [[image.repository.upstream, image.repository.name, str(image.reference)] for image in images]
        await self._set("pins", sorted(rows))

    async def _keys(self, prefix: str) -> list[str]:
        def read() -> list[str]:
            return [key for key in self._cache.iterkeys() if isinstance(key, str) and key.startswith(prefix)]

        none: list[str] = []
        return await self._run(read, none, key=f"{prefix}…")

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

    async def keep_uses(self, uses: Mapping[Digest, float]) -> bool:
        def write() -> bool:
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
            return True

        return await self._run(write, False, key="uses")


def _manifest_row(fact: ManifestFact) -> list[object]:
    return [fact.media_type, [str(one) for one in fact.references]]


def _manifest_fact(row: object) -> ManifestFact | None:
    match row:
        case [str(media_type), list(references)]:
            return ManifestFact(media_type, tuple(_digests(references)))
    return None


def _image(row: object) -> Image | None:
    match row:
        case [str(upstream), str(name), str(reference)]:
            with suppress(DigestInvalid, TagInvalid):
                return Image(Repository(upstream, name), parse_reference(reference))
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
