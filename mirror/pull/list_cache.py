"""Lists of tags and of referrers: asked upstream each time.

Where it can't be asked, the last ones stand in, or else what is stored here of the repository.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mirror.catalog.catalog import Catalog
from mirror.errors import ContentUnknown, MirrorError, UpstreamError
from mirror.oci.digest import Digest
from mirror.oci.listings import Query, of_type, referrers_index, tag_list
from mirror.oci.manifest import OCI_INDEX
from mirror.oci.names import Repository
from mirror.primitives.lru import LruCache
from mirror.pull.results import CacheOutcome
from mirror.upstream.registry import Page

_BYTES = 8 * 2**20  # of memory for lists
_OVERHEAD = 1024  # bytes that a list takes beside its body

Question = tuple[Repository, Digest | None, tuple[tuple[str, str], ...]]
"""A repository, the subject of the referrers that are asked for (None: its tags), and the query."""


@dataclass(frozen=True, slots=True)
class ListResult:
    """A page of a list.

    Attributes:
        age: seconds since upstream sent it, where it is stale; None where it is made of what is stored here.
        failure: why upstream could not be asked again, where it is stale.
    """

    page: Page
    outcome: CacheOutcome
    age: int | None = 0
    failure: MirrorError | None = None


@dataclass(frozen=True, slots=True)
class _Seen:
    page: Page
    at: float


class ListCache:
    """What upstreams said when they were asked last, which is lost when the mirror ends; and what is stored."""

    def __init__(
        self, catalog: Catalog | None, *, stale_for: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """*catalog*: None where what is stored stands in for nothing."""
        self._catalog = catalog
        self._stale_for = stale_for
        self._clock = clock
        self._seen = LruCache[Question, _Seen](_BYTES, weigh=lambda seen: len(seen.page.body) + _OVERHEAD)

    async def ask(self, question: Question, answer: Awaitable[Page]) -> ListResult:
        """Upstream's *answer*; where that fails, the one before, or what is stored.

        Raises:
            ContentUnknown: upstream says that there is no such list; one from before is forgotten.
            UpstreamError: it can't be asked, has not been lately, and nothing is stored.
        """
        try:
            page = await answer
        except ContentUnknown:
            self._seen.delete(question)
            raise
        except UpstreamError as failure:
            seen = self._seen.get(question)
            age = 0.0 if seen is None else self._clock() - seen.at
            if seen is not None and age < self._stale_for:
                return ListResult(seen.page, CacheOutcome.STALE, int(age), failure)
            stored = await self.stored(question, seen_within=self._stale_for)
            if stored is None:
                raise
            return ListResult(stored, CacheOutcome.STALE, None, failure)
        self._seen.set(question, _Seen(page, self._clock()))
        return ListResult(page, CacheOutcome.PASSED)

    async def stored(self, question: Question, *, seen_within: float | None = None) -> Page | None:
        """A page of what is stored; None where nothing is: an empty list would say that upstream has nothing.

        Args:
            seen_within: leaves out tags that upstream did not confirm within so many seconds; None: none.
        """
        repository, subject, pairs = question
        query = Query.read(pairs)
        if self._catalog is None or query is None:
            return None
        if subject is None:
            return await self._stored_tags(self._catalog, repository, query, seen_within)
        return await self._stored_referrers(self._catalog, repository, subject, query)

    async def _stored_tags(
        self, catalog: Catalog, repository: Repository, query: Query, seen_within: float | None
    ) -> Page | None:
        since = 0.0 if seen_within is None else time.time() - seen_within
        facts = await catalog.tags(repository)
        tags = sorted(tag.text for tag, fact in facts.items() if fact.checked >= since and catalog.has(fact.digest))
        if not tags:
            return None
        chosen, following = query.page(tags)
        return Page(tag_list(repository.name, chosen), "application/json", following, filtered=False)

    async def _stored_referrers(
        self, catalog: Catalog, repository: Repository, subject: Digest, query: Query
    ) -> Page | None:
        manifests = await catalog.referrers(repository, subject)
        if not manifests:
            return None
        known = of_type(manifests, query.artifact_type)
        chosen, following = query.page(list(known))
        body = referrers_index(known[digest] for digest in chosen)
        return Page(body, OCI_INDEX, following, filtered=query.artifact_type is not None)
