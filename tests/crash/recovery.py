"""Checks after a restart, in an order in which no check affects the next one."""

import asyncio
import json
import re
from collections.abc import Awaitable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from tests.crash.load import Load
from tests.fake.journal import Seen
from tests.http.client import Reply
from tests.real.cache import CacheDirectory, Contents
from tests.real.mirror import Mirror
from tests.real.program import eventually

_BAD_EVENTS = {"request_crashed", "download_crashed", "maintenance_crashed", "maintenance_failed"}


@dataclass(slots=True)
class Figures:
    """Counts of the checks."""

    blobs_kept: int = 0
    tags_known: int = 0
    resumed: int = 0
    voided: int = 0  # ingests that were deleted to free space before a client asked again
    puts_cleaned: int = 0
    rebuilt: int = 0  # fact databases that were lost
    confirmed: int = 0  # committed blobs whose repository had to be confirmed by the upstream
    highest: int = field(default=0)  # bytes on disk, the maximum seen


@dataclass(slots=True)
class Recovery:
    """A mirror that was restarted on the cache of a killed one."""

    mirror: Mirror
    load: Load
    cache: CacheDirectory
    before: Contents  # after the kill, before the restart
    figures: Figures
    limit: int
    damaged: bool  # whether the fact database was damaged
    lost: bool  # whether no fact was readable

    async def check(self) -> None:
        """Run all checks."""
        self._check_directory()
        await self.check_accounting()
        await self._check_acknowledged()
        await self._check_committed()
        await self._check_resumed()
        await self.check_accounting()
        await self._check_rebuilt()
        self.check_log()

    def _check_directory(self) -> None:
        """Assert that no committed blob and no partial byte is lost, and no useless file is left."""
        after = self.cache.contents()
        assert after.blobs == self.before.blobs, f"blobs lost: {set(self.before.blobs) - set(after.blobs)}"
        kept = {digest: size for digest, size in self.before.ingests.items() if size}
        assert after.ingests == kept, f"interrupted downloads were {kept}, and are {after.ingests}"
        assert not after.puts, f"left over: {after.puts}"
        assert not after.strangers, f"not of the layout: {after.strangers}"
        for name in ("oci-layout", "index.json"):
            assert json.loads((self.cache.path / name).read_text()), name
        self.figures.blobs_kept += len(after.blobs)
        self.figures.puts_cleaned += len(self.before.puts)

    async def check_accounting(self) -> None:
        """Assert that an idle mirror counts as many bytes as its files have."""
        counted = found = 0

        async def exact() -> bool:
            nonlocal counted, found
            metrics = await self.mirror.metrics()
            counted, found = int(metrics["mirror_cache_bytes"]), self.cache.contents().occupied
            assert max(counted, found) <= self.limit, f"{counted} counted, {found} on disk of {self.limit}"
            return counted == found and not metrics["mirror_downloads_running"]

        try:
            await eventually(exact)
        except TimeoutError:
            raise AssertionError(f"{counted} bytes counted, {found} on disk") from None

    async def _check_acknowledged(self) -> None:
        """Assert that acknowledged tags and blobs are served without an upstream request.

        Two kinds of content may be confirmed by the upstream, because the right of the repository may be gone: content
        that only a manifest proved to be its own, after the eviction of that manifest; and a layer of several
        repositories, which was evicted, and stored again by a pull through another one.
        """
        known, stored = self.load.known, self.before.blobs
        tags = [(key, digest) for key, (digest, _) in known.tags.items() if digest in stored]
        pulled = frozenset(known.pulled)  # now: an answer to this check may be a pull
        seen = await self._upstream_requests(
            *(self._tag(*key, digest) for key, digest in tags),
            *(self._content(repository, digest) for repository, digest in known.held if digest in stored),
        )
        fetched = [f"{one.method} {one.target}" for one in seen if not self._may_confirm(one, pulled)]
        assert not fetched, f"requested content that was stored: {fetched}"
        self.figures.tags_known += len(tags)

    def _may_confirm(self, seen: Seen, pulled: AbstractSet[tuple[str, str]]) -> bool:
        """Return whether this is a HEAD of a blob, or a GET of a manifest, whose right may be gone."""
        repository, kind, digest = re.split("/(blobs|manifests)/", seen.target.removeprefix("/v2/"))
        is_shared = len(self.load.shelf.holders.get(digest, ())) > 1
        return (
            (seen.method == "HEAD") == (kind == "blobs")
            and ":" in digest
            and (is_shared or (repository, digest) not in pulled)
        )

    async def _check_committed(self) -> None:
        """Assert that other committed blobs are served; upstream may be asked for their repository only."""
        shelf, held = self.load.shelf, self.load.known.held
        for digest in self.before.blobs:
            repository = shelf.holders[digest][0]
            if (repository, digest) in held or digest in shelf.manifests:
                continue
            seen = await self._upstream_requests(self._content(repository, digest))
            assert {one.method for one in seen} <= {"HEAD"}, f"fetched again: {seen[-1].target}"
            self.figures.confirmed += bool(seen)

    async def _check_resumed(self) -> None:
        """Assert that an interrupted download resumes at its received bytes, if these are still stored."""
        for digest, size in self.before.ingests.items():
            if not size:
                continue
            whole = len(self.load.shelf.content(digest))
            is_stored = self.cache.contents().ingests.get(digest) == size
            seen = await self._upstream_requests(self._content(self.load.shelf.holders[digest][0], digest))
            if not is_stored:  # deleted to free space
                self.figures.voided += 1
                continue
            ranges = [one.range for one in seen if one.method == "GET"]
            wanted = f"bytes={min(size, whole - 1)}-"  # all are stored: the last byte again, for authorization
            assert ranges == [wanted], f"{size} of {whole} were here, requested: {seen}"
            self.figures.resumed += 1

    async def _upstream_requests(self, *requests: Awaitable[None]) -> list[Seen]:
        """Return the requests that the upstream receives during these calls."""
        journal = self.load.shelf.registry.journal
        before = len(journal)
        await asyncio.gather(*requests)
        return journal.entries[before:]

    async def _tag(self, repository: str, tag: str, digest: str) -> None:
        reply = await self.load.manifest(repository, tag)
        assert isinstance(reply, Reply)
        assert reply.digest == digest, f"{repository}:{tag} was {digest}: {reply}"

    async def _content(self, repository: str, digest: str) -> None:
        get = self.load.manifest if digest in self.load.shelf.manifests else self.load.blob
        assert await get(repository, digest), digest

    async def _check_rebuilt(self) -> None:
        """Assert that a lost fact database is rebuilt from the blobs, with an event in the log."""
        if self.lost and self.before.blobs:
            await self.mirror.program.until(lambda: bool(self.mirror.events("facts_rebuilt")), within=10)
            self.figures.rebuilt += 1

    def check_log(self) -> None:
        """Assert that the log has no error."""
        assert "Traceback" not in self.mirror.program.said(), str(self.mirror.program)
        bad = [event for event in self.mirror.events() if event["event"] in _BAD_EVENTS]
        assert not bad, bad
        if not self.damaged:
            bad = [event for event in self.mirror.events() if str(event["event"]).startswith("facts_")]
            assert not bad, bad
