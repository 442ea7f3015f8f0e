"""Pulls: from a client's question to the answer. Hit, join, begin, revalidate, or serve stale."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from copy import copy
from functools import partial
from types import TracebackType
from typing import Self, assert_never

import structlog

from mirror.catalog.catalog import Catalog
from mirror.config import TagSettings
from mirror.errors import (
    BlobUnknown,
    ContentUnknown,
    Denied,
    ManifestUnknown,
    MirrorError,
    NoSpace,
    RepositoryUnknown,
    StorageFailed,
    UpstreamError,
    UpstreamUnavailable,
)
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest
from mirror.oci.names import Reference, Repository, Tag
from mirror.primitives.singleflight import SingleFlight
from mirror.pull.downloads import Download, Downloads
from mirror.pull.freshness import Fetch, Revalidate, Serve, decide, is_fresh, is_gone, may_serve_stale
from mirror.pull.list_cache import ListCache, ListResult, Question
from mirror.pull.results import BlobResult, CacheOutcome, ManifestResult
from mirror.pull.upstream_guard import UpstreamGuard, absent
from mirror.storage.facts import TagFact
from mirror.storage.protocols import BlobStore
from mirror.upstream.registry import Registry

log = structlog.get_logger()


class PullService:
    """Answers pulls for all upstreams."""

    def __init__(
        self,
        registries: Mapping[str, Registry],
        store: BlobStore,
        catalog: Catalog,
        downloads: Downloads,
        settings: TagSettings,
        *,
        patience: float,
        offline: bool,
    ) -> None:
        self._registries = registries
        self._store = store
        self._catalog = catalog
        self._downloads = downloads
        self._settings = settings
        self._questions = UpstreamGuard(missing_for=settings.missing_for, patience=patience, offline=offline)
        self._asker: Hashable = None  # whose rights upstream judges by; None for the mirror's own
        self._fetches = SingleFlight[tuple[Hashable, Repository, Reference], Manifest]()
        self._checks = SingleFlight[tuple[Hashable, Repository, Digest], None]()
        self._lists = ListCache(catalog, stale_for=settings.stale_for)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._fetches.__aexit__(kind, error, trace)
        await self._checks.__aexit__(kind, error, trace)

    def on_behalf_of(self, asker: Hashable, registries: Mapping[str, Registry]) -> PullService:
        """The same pulls, with these ways to upstreams instead: in the name of a client that has rights of its own.

        What upstream refuses one of them, or hides from it, is no answer to another.
        """
        own = copy(self)
        own._asker = asker  # noqa: SLF001 - of its own kind
        own._registries = registries  # noqa: SLF001 - of its own kind
        own._questions = self._questions.unremembered()  # noqa: SLF001
        own._lists = ListCache(None, stale_for=0.0)  # noqa: SLF001 - what another client was shown stands in for nothing
        return own

    # Manifests

    def manifest_nowait(self, repository: Repository, reference: Reference) -> Manifest | None:
        """The manifest, if it is a hit that memory has all of; None otherwise.

        Nearly every request of a busy mirror ends here, so nothing here waits, and nothing is done twice.
        """
        registry = self._registries[repository.upstream]
        if isinstance(reference, Tag):
            fact = self._catalog.tag_nowait(repository, reference)
            fresh_for = registry.allowance.fresh_for
            if fact is None or not is_fresh(
                fact, now=time.time(), fresh_for=fresh_for, offline=self._questions.offline
            ):
                return None
            reference = fact.digest
        manifest = self._catalog.manifest_nowait(repository, reference)
        if manifest is None or registry.is_down:
            return None
        self._store.use(reference)
        return manifest

    async def manifest(
        self, repository: Repository, reference: Reference, *, head_only: bool = False, confirmed: bool = False
    ) -> ManifestResult:
        """The manifest that *reference* names.

        Args:
            head_only: nothing needs to be downloaded that is not here.
            confirmed: upstream is asked what a tag names, however fresh it is here.

        Raises:
            ManifestUnknown, UpstreamError, StorageFailed
        """
        async with self._questions.patiently(repository):
            return await self._manifest(repository, reference, head_only=head_only, confirmed=confirmed)

    async def _manifest(
        self, repository: Repository, reference: Reference, *, head_only: bool, confirmed: bool
    ) -> ManifestResult:
        if isinstance(reference, Digest):
            return await self._by_digest(repository, reference, head_only=head_only)
        now = time.time()
        fact = await self._catalog.tag(repository, reference)
        fresh_for = 0.0 if confirmed else self._registries[repository.upstream].allowance.fresh_for
        decision = decide(fact, now=now, fresh_for=fresh_for, offline=self._questions.offline)
        match decision:
            case Serve(fact):
                try:
                    return await self._by_digest(repository, fact.digest, head_only=head_only)
                except ManifestUnknown:
                    if self._questions.offline:
                        raise
                    # The tag moved, and upstream has forgotten what it named; here that was evicted.
                    return await self._fetched(repository, reference)
            case Revalidate(fact):
                return await self._revalidated(repository, reference, fact)
            case Fetch():
                if head_only and (pull := await self._head(repository, reference)) is not None:
                    return pull
                return await self._fetched(repository, reference)
            case _:
                assert_never(decision)

    async def _by_digest(self, repository: Repository, digest: Digest, *, head_only: bool) -> ManifestResult:
        manifest = await self._catalog.manifest(digest)
        if manifest is not None and await self._catalog.holds(repository, digest):
            self._store.use(digest)
            registry = self._registries[repository.upstream]
            if registry.is_down and not await self._is_complete(digest):
                # podman does not come back from a manifest whose blobs it can't have; from a 503 it does.
                with suppress(ContentUnknown):
                    await registry.resolve(repository.name, digest)
            return ManifestResult(manifest.head, manifest, CacheOutcome.HIT)
        if head_only and (pull := await self._head(repository, digest)) is not None:
            return pull
        return await self._fetched(repository, digest)

    async def _head(self, repository: Repository, reference: Reference) -> ManifestResult | None:
        """The head alone, as upstream tells it; None where it doesn't tell all of it."""
        await self._questions.check(repository, reference, ManifestUnknown)
        head = await self._questions.ask(
            repository, reference, self._registries[repository.upstream].resolve(repository.name, reference)
        )
        if head is None or head.media_type is None or head.size is None:
            return None
        if isinstance(reference, Tag):
            await self._catalog.keep_tag(repository, reference, TagFact(head.digest, time.time()))
        return ManifestResult(head, None, CacheOutcome.PASSED)

    async def _fetched(self, repository: Repository, reference: Reference) -> ManifestResult:
        await self._questions.check(repository, reference, ManifestUnknown)
        manifest, joined = await self._fetches.do(
            (self._asker, repository, reference), partial(self._fetch, repository, reference)
        )
        stored = CacheOutcome.STORED if manifest.digest in self._store else CacheOutcome.PASSED
        return ManifestResult(manifest.head, manifest, CacheOutcome.COLLAPSED if joined else stored)

    async def _fetch(self, repository: Repository, reference: Reference) -> Manifest:
        registry = self._registries[repository.upstream]
        manifest = await self._questions.ask(repository, reference, registry.manifest(repository.name, reference))
        try:
            await self._catalog.keep_manifest(repository, manifest)
        except StorageFailed as error:
            log.info("manifest_not_stored", repository=str(repository), reason=str(error))  # the store warns of it
            self._catalog.expect(repository, manifest)
        if isinstance(reference, Tag):
            await self._catalog.keep_tag(repository, reference, TagFact(manifest.digest, time.time()))
        return manifest

    async def _revalidated(self, repository: Repository, tag: Tag, fact: TagFact) -> ManifestResult:
        try:
            asking = partial(self._revalidate, repository, tag, fact)
            manifest, _ = await self._fetches.do((self._asker, repository, tag), asking)
        except MirrorError as failure:
            if is_gone(failure):
                await self._catalog.drop_tag(repository, tag)
            elif may_serve_stale(fact, failure, now=time.time(), stale_for=self._settings.stale_for):
                return await self._stale(repository, tag, fact, failure)
            raise
        self._store.use(manifest.digest)
        return ManifestResult(
            manifest.head, manifest, CacheOutcome.HIT if manifest.digest == fact.digest else CacheOutcome.STORED
        )

    async def _revalidate(self, repository: Repository, tag: Tag, fact: TagFact) -> Manifest:
        """Asks upstream by HEAD what the tag names now, and fetches that if it is not here."""
        registry = self._registries[repository.upstream]
        head = await registry.resolve(repository.name, tag)
        if head is None:
            return await self._fetch(repository, tag)
        is_ours = head.digest == fact.digest or await self._catalog.holds(repository, head.digest)
        manifest = await self._catalog.manifest(head.digest) if is_ours else None
        if manifest is None:
            try:
                manifest = await self._fetch(repository, head.digest)
            except ManifestUnknown as unknown:
                raise UpstreamUnavailable(
                    f"{repository.upstream} says that {repository}:{tag} is {head.digest}, and does not have that",
                    upstream=repository.upstream,
                ) from unknown
        await self._catalog.keep_tag(repository, tag, TagFact(head.digest, time.time()))
        return manifest

    async def _stale(self, repository: Repository, tag: Tag, fact: TagFact, failure: MirrorError) -> ManifestResult:
        manifest = await self._catalog.manifest(fact.digest)
        if manifest is None or not await self._is_complete(fact.digest):
            raise failure
        self._store.use(fact.digest)
        age = max(0, int(time.time() - fact.checked))
        log.warning("stale_served", repository=str(repository), tag=str(tag), age=age, reason=str(failure))
        return ManifestResult(manifest.head, manifest, CacheOutcome.STALE, age=age, failure=failure)

    async def _is_complete(self, digest: Digest) -> bool:
        return await self._catalog.is_complete(digest, arrived=self._downloads.has_whole)

    # Blobs

    async def blob_size(self, repository: Repository, digest: Digest) -> tuple[int | None, CacheOutcome]:
        """Bytes of a blob, without downloading it; None where nobody knows.

        Raises:
            BlobUnknown, UpstreamError
        """
        async with self._questions.patiently(repository):
            return await self._blob_size(repository, digest)

    async def _blob_size(self, repository: Repository, digest: Digest) -> tuple[int | None, CacheOutcome]:
        size = self._store.size(digest)
        if size is not None and await self._catalog.holds(repository, digest):
            self._store.use(digest)
            return size, CacheOutcome.HIT
        await self._questions.check(repository, digest, BlobUnknown)
        arriving = self._downloads.size(digest)
        if arriving is not None and await self._catalog.holds(repository, digest):
            return arriving, CacheOutcome.COLLAPSED
        registry = self._registries[repository.upstream]
        told = await self._questions.ask(repository, digest, registry.blob_size(repository.name, digest))
        await self._catalog.keep_holding(repository, digest)
        # Some registries answer HEAD with a length of 0, or with that of their storage's own answer.
        expected = self._catalog.expected_size(repository, digest)
        return (
            (size, CacheOutcome.HIT)
            if size is not None
            else (told if expected is None else expected, CacheOutcome.PASSED)
        )

    @asynccontextmanager
    async def blob(self, repository: Repository, digest: Digest) -> AsyncIterator[BlobResult]:
        """A blob, from the store, from the download under way, or from one that begins now.

        Raises:
            BlobUnknown, UpstreamError, StorageFailed
        """
        async with AsyncExitStack() as exits:
            async with self._questions.patiently(repository):
                pull = await self._blob(exits, repository, digest)
            yield pull

    async def _blob(self, exits: AsyncExitStack, repository: Repository, digest: Digest) -> BlobResult:
        pull = partial(BlobResult, self._registries[repository.upstream], repository, digest)
        held = await self._catalog.holds(repository, digest)
        if not self._is_here(digest):
            await self._questions.check(repository, digest, BlobUnknown)
            size = self._catalog.expected_size(repository, digest)
            if size is not None and not await self._store.has_room(size):
                return pull(size, CacheOutcome.PASSED, None)
        if not held and self._is_here(digest) and not self._downloads.is_asked_by(digest, repository):
            await self._check_holds(repository, digest)
        # From here on nothing waits before the blob is open or its download is joined or begun: what was checked holds.
        blob = await exits.enter_async_context(self._store.open(digest))
        if blob is not None:
            return pull(blob.size, CacheOutcome.HIT, blob)
        outcome = CacheOutcome.COLLAPSED if digest in self._downloads else CacheOutcome.STORED
        if self._downloads.has_whole(digest):
            outcome = CacheOutcome.HIT
        try:
            download = await self._follow(exits, repository, digest)
        except StorageFailed as error:
            told = error.detail.get("size") or self._catalog.expected_size(repository, digest)
            if not isinstance(told, int):
                told, _ = await self._blob_size(repository, digest)
            if told is None:
                raise
            self._catalog.expect_size(repository, digest, told)
            return pull(told, CacheOutcome.PASSED, None)
        return pull(download.size, outcome, download)

    async def keep(self, repository: Repository, digest: Digest, advanced: Callable[[int], None]) -> None:
        """Brings a blob into the store, and returns when it is there.

        Args:
            advanced: is told of bytes as they arrive, or are found to be here.

        Raises:
            BlobUnknown, UpstreamError
            StorageFailed: it can't be stored (NoSpace: for lack of room).
        """
        async with self.blob(repository, digest) as pull:
            at = 0
            while pull.readable is not None and at < pull.size:
                reach = await pull.readable.reach(at)
                advanced(reach - at)
                at = reach
            await self._downloads.settle(digest)
        if digest not in self._store:
            raise NoSpace(f"{digest} could not be stored: it has {pull.size} bytes; see max_size and min_free")

    def _is_here(self, digest: Digest) -> bool:
        return digest in self._store or digest in self._downloads

    async def _follow(self, exits: AsyncExitStack, repository: Repository, digest: Digest) -> Download:
        source = partial(self._registries[repository.upstream].blob, repository.name, digest)
        size = self._catalog.expected_size(repository, digest)
        if digest in self._downloads:
            try:
                return await exits.enter_async_context(self._downloads.follow(digest, source, size, asker=repository))
            except (ContentUnknown, UpstreamError, Denied) as error:
                # It may have been another repository's, and another upstream's: no answer to this one's question.
                log.info("download_not_joined", digest=str(digest), reason=str(error))
        following = self._downloads.follow(digest, source, size, asker=repository)
        download = await self._questions.ask(repository, digest, exits.enter_async_context(following))
        await self._catalog.keep_holding(repository, digest)
        return download

    async def _check_holds(self, repository: Repository, digest: Digest) -> None:
        """Lets pass who asks a repository for what is its own: bytes are shared between repositories, rights are not.

        Raises:
            BlobUnknown, UpstreamError: upstream does not confirm it.
        """
        if not await self._catalog.holds(repository, digest):
            await self._checks.do((self._asker, repository, digest), partial(self._ask_holds, repository, digest))

    async def _ask_holds(self, repository: Repository, digest: Digest) -> None:
        await self._questions.check(repository, digest, BlobUnknown)
        registry = self._registries[repository.upstream]
        await self._questions.ask(repository, digest, registry.blob_size(repository.name, digest))
        await self._catalog.keep_holding(repository, digest)

    # Lists

    async def tags(self, repository: Repository, query: tuple[tuple[str, str], ...]) -> ListResult:
        """A page of upstream's list of tags.

        Raises:
            RepositoryUnknown, UpstreamError
        """
        question, what = (repository, None, query), f"the list of {repository}'s tags"
        if self._questions.offline:
            return await self._listed_here(question, RepositoryUnknown, what)
        return await self._lists.ask(question, self._registries[repository.upstream].tags(repository.name, query))

    async def referrers(self, repository: Repository, digest: Digest, query: tuple[tuple[str, str], ...]) -> ListResult:
        """A page of upstream's list of what refers to *digest*.

        Raises:
            ManifestUnknown, UpstreamError
        """
        question, what = (repository, digest, query), f"what refers to {repository}@{digest}"
        if self._questions.offline:
            return await self._listed_here(question, ManifestUnknown, what)
        page = self._registries[repository.upstream].referrers(repository.name, digest, query)
        return await self._lists.ask(question, page)

    async def _listed_here(self, question: Question, unknown: type[ContentUnknown], what: str) -> ListResult:
        page = await self._lists.stored(question)
        if page is None:
            raise absent(unknown, what)
        return ListResult(page, CacheOutcome.HIT)
