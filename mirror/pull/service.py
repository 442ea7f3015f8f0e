"""The pull service: from a client's request to the answer. Hit, join, download, revalidate, or serve stale."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Self, assert_never

import structlog

from mirror.config import TagSettings
from mirror.errors import (
    BlobUnknown,
    ContentUnknown,
    Denied,
    ManifestUnknown,
    MirrorError,
    StorageFailed,
    UpstreamError,
)
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest
from mirror.oci.names import Reference, Repository, Tag
from mirror.origin import PullContext
from mirror.pull.blob_content import DownloadContent, StoredContent, UnstoredContent, unstored_streams
from mirror.pull.downloads import Download
from mirror.pull.freshness import Fetch, Revalidate, Serve, decide, is_fresh, is_gone, may_serve_stale
from mirror.pull.list_cache import ListCache
from mirror.pull.manifest_fetch import ManifestFetch
from mirror.pull.origins import Origins
from mirror.pull.protocols import RunningDownloads, StoredFacts, Upstream
from mirror.pull.results import BlobResult, CacheOutcome, ManifestResult
from mirror.pull.rights import Rights
from mirror.pull.upstream_guard import UpstreamGuard
from mirror.storage.facts import TagFact
from mirror.storage.protocols import BlobStore

log = structlog.get_logger()


class PullService:
    """Answers pulls from all upstreams.

    An upstream's answer to one client's login is never an answer to another client: such requests are collapsed only
    with requests of the same login, and their 404s and lists are not cached.

    Attributes:
        lists: the lists of tags and referrers.
    """

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        store: BlobStore,
        catalog: StoredFacts,
        downloads: RunningDownloads,
        origins: Origins,
        settings: TagSettings,
        *,
        deadline: float,
        offline: bool,
    ) -> None:
        """*deadline*: seconds within which a pull must have an answer."""
        self._upstreams = upstreams
        self._store = store
        self._catalog = catalog
        self._downloads = downloads
        self._origins = origins
        self._stale_for = settings.stale_for
        self._guard = UpstreamGuard(missing_for=settings.missing_for, deadline=deadline, offline=offline)
        self._fetch = ManifestFetch(upstreams, store, catalog, self._guard)
        self._rights = Rights(upstreams, catalog, self._guard)
        self._is_complete = partial(catalog.is_complete, arrived=downloads.has_whole)
        self.lists = ListCache(upstreams, catalog, stale_for=settings.stale_for, offline=offline)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._fetch.__aexit__(kind, error, trace)
        await self._rights.__aexit__(kind, error, trace)

    # Manifests

    def manifest_nowait(self, context: PullContext, reference: Reference) -> Manifest | None:
        """Return the manifest if it is a hit in memory; None if `manifest` must be called."""
        repository = context.repository
        upstream = self._upstreams[repository.upstream]
        if isinstance(reference, Tag):
            fact = self._catalog.tag_nowait(repository, reference)
            if fact is None or not is_fresh(
                fact, now=time.time(), fresh_for=upstream.quota.fresh_for, offline=self._guard.offline
            ):
                return None
            reference = fact.digest
        manifest = self._catalog.manifest_nowait(repository, reference)
        if manifest is None or upstream.is_down:
            return None
        self._store.use(reference)
        return manifest

    async def manifest(
        self, context: PullContext, reference: Reference, *, head_only: bool = False, confirmed: bool = False
    ) -> ManifestResult:
        """Return the manifest that *reference* names.

        Args:
            head_only: download nothing that is not stored.
            confirmed: ask the upstream which manifest a tag names, even if the tag is fresh.

        Raises:
            ManifestUnknown, Denied, UpstreamError: if the upstream answers so, and the cache can't replace its answer.
            StorageFailed: if the cache directory can't be read.
        """
        async with self._guard.deadline(context.repository, reference):
            if isinstance(reference, Digest):
                return await self._by_digest(context, reference, head_only=head_only)
            return await self._by_tag(context, reference, head_only=head_only, confirmed=confirmed)

    async def _by_tag(self, context: PullContext, tag: Tag, *, head_only: bool, confirmed: bool) -> ManifestResult:
        repository, offline = context.repository, self._guard.offline
        fact = await self._catalog.tag(repository, tag)
        fresh_for = 0.0 if confirmed else self._upstreams[repository.upstream].quota.fresh_for
        decision = decide(fact, now=time.time(), fresh_for=fresh_for, offline=offline)
        match decision:
            case Serve(fact):
                try:
                    return await self._by_digest(context, fact.digest, head_only=head_only)
                except ManifestUnknown:
                    if offline:
                        raise  # with the digest in the message; otherwise the tag moved, and its manifest is gone
            case Revalidate(fact):
                return await self._revalidated(context, tag, fact)
            case Fetch():
                pass
            case _:
                assert_never(decision)
        if head_only and (result := await self._fetch.head(context, tag)) is not None:
            return result
        return await self._fetch.fetched(context, tag)

    async def _by_digest(self, context: PullContext, digest: Digest, *, head_only: bool) -> ManifestResult:
        manifest = await self._catalog.manifest(digest)
        if manifest is not None and await self._catalog.holds(context.repository, digest):
            self._store.use(digest)
            upstream = self._upstreams[context.repository.upstream]
            if upstream.is_down and not await self._is_complete(digest):
                # podman does not recover from a manifest whose blobs are missing; from a 503 it does.
                with suppress(ContentUnknown):
                    await upstream.resolve(context, digest)
            return ManifestResult(manifest.head, manifest, CacheOutcome.HIT)
        if head_only and (result := await self._fetch.head(context, digest)) is not None:
            return result
        return await self._fetch.fetched(context, digest)

    async def _revalidated(self, context: PullContext, tag: Tag, fact: TagFact) -> ManifestResult:
        try:
            manifest = await self._fetch.revalidated(context, tag, fact)
        except MirrorError as failure:
            if is_gone(failure):
                await self._catalog.drop_tag(context.repository, tag)
            elif may_serve_stale(fact, failure, now=time.time(), stale_for=self._stale_for):
                return await self._stale(context.repository, tag, fact, failure)
            raise
        self._store.use(manifest.digest)
        outcome = CacheOutcome.HIT if manifest.digest == fact.digest else CacheOutcome.STORED
        return ManifestResult(manifest.head, manifest, outcome)

    async def _stale(self, repository: Repository, tag: Tag, fact: TagFact, failure: MirrorError) -> ManifestResult:
        manifest = await self._catalog.manifest(fact.digest)
        if manifest is None or not await self._is_complete(fact.digest):
            raise failure
        self._store.use(fact.digest)
        age = max(0, int(time.time() - fact.checked))
        log.warning("stale_served", repository=str(repository), tag=str(tag), age=age, reason=str(failure))
        return ManifestResult(manifest.head, manifest, CacheOutcome.STALE, age=age, failure=failure)

    # Blobs

    async def blob_size(self, context: PullContext, digest: Digest) -> tuple[int | None, CacheOutcome]:
        """Return the bytes of a blob without downloading it; None if neither a manifest nor the upstream states them.

        Raises:
            BlobUnknown, Denied, UpstreamError: if the upstream answers so, and the cache can't replace its answer.
        """
        async with self._guard.deadline(context.repository, digest):
            return await self._blob_size(context, digest)

    async def _blob_size(self, context: PullContext, digest: Digest) -> tuple[int | None, CacheOutcome]:
        repository = context.repository
        size = self._store.size(digest)
        if size is not None and await self._catalog.holds(repository, digest):
            self._store.use(digest)
            return size, CacheOutcome.HIT
        await self._guard.require_askable(context, digest, BlobUnknown)
        arriving = self._downloads.size(digest)
        if arriving is not None and await self._catalog.holds(repository, digest):
            return arriving, CacheOutcome.COLLAPSED
        announced = await self._rights.confirm(context, digest)
        if size is not None:
            return size, CacheOutcome.HIT
        # Some registries answer HEAD with a length of 0, or with that of their storage's own answer.
        expected = self._catalog.expected_size(repository, digest)
        return announced if expected is None else expected, CacheOutcome.PASSED

    @asynccontextmanager
    async def blob(self, context: PullContext, digest: Digest) -> AsyncIterator[BlobResult]:
        """Open a blob: from the store, from the download in progress, or from one that starts now.

        Raises:
            BlobUnknown, Denied, UpstreamError: if the upstream answers so, and the cache can't replace its answer.
            StorageFailed: if the blob can't be stored, and its size, needed to pass it through, is unknown.
        """
        async with AsyncExitStack() as exits:
            held = await self._catalog.holds(context.repository, digest)
            result = await self._stored(exits, digest) if held else None
            if result is None:
                continues = partial(self._downloads.__contains__, digest)
                async with self._guard.deadline(context.repository, digest, continues=continues):
                    result = await self._blob(exits, context, digest, held=held)
            yield result

    async def _stored(self, exits: AsyncExitStack, digest: Digest) -> BlobResult | None:
        blob = await exits.enter_async_context(self._store.open(digest))
        return None if blob is None else BlobResult(blob.size, CacheOutcome.HIT, StoredContent(blob))

    async def _blob(self, exits: AsyncExitStack, context: PullContext, digest: Digest, *, held: bool) -> BlobResult:
        repository = context.repository
        if not self._is_available(digest):
            await self._guard.require_askable(context, digest, BlobUnknown)
            size = self._catalog.expected_size(repository, digest)
            if size is not None and not await self._store.has_space(size):
                return self._unstored(context, digest, size)
        if not held and self._is_available(digest) and not self._downloads.is_started_by(digest, repository):
            await self._rights.require(context, digest)
        # From here on nothing waits before the blob is open, or its download joined or started: the right still holds.
        if (stored := await self._stored(exits, digest)) is not None:
            return stored
        outcome = CacheOutcome.COLLAPSED if digest in self._downloads else CacheOutcome.STORED
        if self._downloads.has_whole(digest):
            outcome = CacheOutcome.HIT
        try:
            download = await self._follow(exits, context, digest)
        except StorageFailed as error:
            return self._unstored(context, digest, await self._size_of_unstorable(context, digest, error))
        unstored = unstored_streams(self._origins, context, digest, download.size)
        return BlobResult(download.size, outcome, DownloadContent(download, unstored))

    async def _size_of_unstorable(self, context: PullContext, digest: Digest, error: StorageFailed) -> int:
        """Return the size that a manifest states, or else the one that the upstream announces.

        An announced size counts for this pull only: nothing verifies it, and the next answer may be right.
        """
        size = self._catalog.expected_size(context.repository, digest) or error.detail.get("size")
        if not isinstance(size, int):
            size, _ = await self._blob_size(context, digest)
        if size is None:
            raise error
        return size

    def _unstored(self, context: PullContext, digest: Digest, size: int) -> BlobResult:
        content = UnstoredContent(unstored_streams(self._origins, context, digest, size))
        return BlobResult(size, CacheOutcome.PASSED, content)

    def _is_available(self, digest: Digest) -> bool:
        return digest in self._store or digest in self._downloads

    async def _follow(self, exits: AsyncExitStack, context: PullContext, digest: Digest) -> Download:
        size, download = self._catalog.expected_size(context.repository, digest), None
        if digest in self._downloads:
            try:
                download = await exits.enter_async_context(self._downloads.follow(context, digest, size))
            except (ContentUnknown, UpstreamError, Denied) as error:
                # Another repository, perhaps of another upstream, started it: its failure is no answer to this pull.
                log.info("download_not_joined", digest=str(digest), reason=str(error))
        if download is None:
            following = exits.enter_async_context(self._downloads.follow(context, digest, size))
            download = await self._guard.ask(context, digest, following)
        # Also for a joined download: the client that started it may have left before the upstream answered.
        if download.started_by == context.repository:
            await self._catalog.keep_holding(context.repository, digest, "pulled")
        return download
