"""List cache: the last pages of tag and referrer lists, for outages. Normally the upstream is asked every time."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from mirror.errors import ContentUnknown, ManifestUnknown, RepositoryUnknown, StorageFailed, UpstreamError
from mirror.oci.digest import Digest
from mirror.oci.listings import Query, of_type, referrers_index, tag_list
from mirror.oci.manifest import OCI_INDEX
from mirror.oci.names import Repository
from mirror.origin import PullContext
from mirror.primitives.lru import LruCache
from mirror.pull.protocols import StoredFacts, Upstream
from mirror.pull.results import CacheOutcome, ListResult
from mirror.pull.upstream_guard import absent_offline
from mirror.upstream.registry import Page, Pairs

_MAX_BYTES = 8 * 2**20  # of memory for pages
_OVERHEAD = 1024  # bytes of memory that a page takes beside its body


@dataclass(frozen=True, slots=True)
class ListKey:
    """One page: of the referrers of *subject*, or (None) of the repository's tags."""

    repository: Repository
    subject: Digest | None
    query: Pairs


@dataclass(frozen=True, slots=True)
class _Seen:
    page: Page
    at: float


class ListCache:
    """The last pages that upstreams sent, in memory, and pages made from stored content."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        catalog: StoredFacts,
        *,
        stale_for: float,
        offline: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstreams = upstreams
        self._catalog = catalog
        self._stale_for = stale_for
        self._offline = offline
        self._clock = clock
        self._seen = LruCache[ListKey, _Seen](_MAX_BYTES, weigh=lambda seen: len(seen.page.body) + _OVERHEAD)

    async def tags(self, context: PullContext, query: Pairs) -> ListResult:
        """Return a page of the repository's tags; see `_ask`.

        Raises:
            RepositoryUnknown, Denied, UpstreamError: if the upstream answers so, and no cached page replaces it.
        """
        key = ListKey(context.repository, None, query)
        if self._offline:
            return await self._offline_page(key, RepositoryUnknown, f"the list of tags of {context.repository}")
        return await self._ask(context, key, self._upstreams[context.repository.upstream].tags(context, query))

    async def referrers(self, context: PullContext, subject: Digest, query: Pairs) -> ListResult:
        """Return a page of the manifests that refer to *subject*; see `_ask`.

        Raises:
            ManifestUnknown, Denied, UpstreamError: if the upstream answers so, and no cached page replaces it.
        """
        key = ListKey(context.repository, subject, query)
        if self._offline:
            return await self._offline_page(key, ManifestUnknown, f"the referrers of {context.repository}@{subject}")
        upstream = self._upstreams[context.repository.upstream]
        return await self._ask(context, key, upstream.referrers(context, subject, query))

    async def _offline_page(self, key: ListKey, unknown: type[ContentUnknown], description: str) -> ListResult:
        page = await self._stored(key)
        if page is None:
            raise absent_offline(unknown, description)
        return ListResult(page, CacheOutcome.HIT)

    async def _ask(self, context: PullContext, key: ListKey, answer: Awaitable[Page]) -> ListResult:
        """Return the upstream's *answer*; if that fails, the last page, or one made from stored content.

        A client with its own login gets only the upstream's answer: other pages may list content hidden from it.

        Raises:
            ContentUnknown: if the upstream has no such list; the last page is dropped.
            Denied: if the upstream refuses the client's login.
            UpstreamError: if the upstream cannot be asked, and no stored page replaces its answer.
        """
        try:
            page = await answer
        except ContentUnknown:
            if context.login is None:
                self._seen.delete(key)
            raise
        except UpstreamError as failure:
            stale = None if context.login is not None else await self._stale(key, failure)
            if stale is None:
                raise
            return stale
        if context.login is None:
            self._seen.set(key, _Seen(page, self._clock()))
        return ListResult(page, CacheOutcome.PASSED)

    async def _stale(self, key: ListKey, failure: UpstreamError) -> ListResult | None:
        seen = self._seen.get(key)
        age = 0.0 if seen is None else self._clock() - seen.at
        if seen is not None and age < self._stale_for:
            return ListResult(seen.page, CacheOutcome.STALE, int(age), failure)
        stored: Page | None = None
        with suppress(StorageFailed):  # the upstream's failure is the answer then
            stored = await self._stored(key, seen_within=self._stale_for)
        return None if stored is None else ListResult(stored, CacheOutcome.STALE, None, failure)

    async def _stored(self, key: ListKey, *, seen_within: float | None = None) -> Page | None:
        """Return a page made from stored content; None if there is none: an empty list would claim to be complete.

        Args:
            seen_within: leave out tags that the upstream has not confirmed for so many seconds; None: keep all.
        """
        query = Query.read(key.query)
        if query is None:
            return None
        if key.subject is None:
            return await self._stored_tags(key.repository, query, seen_within)
        return await self._stored_referrers(key.repository, key.subject, query)

    async def _stored_tags(self, repository: Repository, query: Query, seen_within: float | None) -> Page | None:
        since = 0.0 if seen_within is None else time.time() - seen_within
        facts = await self._catalog.tags(repository)
        tags = sorted(
            tag.text for tag, fact in facts.items() if fact.checked >= since and self._catalog.has(fact.digest)
        )
        if not tags:
            return None
        chosen, following = query.page(tags)
        return Page(tag_list(repository.name, chosen), "application/json", following, filtered=False)

    async def _stored_referrers(self, repository: Repository, subject: Digest, query: Query) -> Page | None:
        manifests = await self._catalog.referrers(repository, subject)
        if not manifests:
            return None
        known = of_type(manifests, query.artifact_type)
        chosen, following = query.page(list(known))
        body = referrers_index(known[digest] for digest in chosen)
        return Page(body, OCI_INDEX, following, filtered=query.artifact_type is not None)
