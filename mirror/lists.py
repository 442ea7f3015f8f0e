"""Lists of tags and of referrers: asked upstream each time, and the last ones kept for when it can't be asked."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mirror.errors import ContentUnknown, MirrorError, UpstreamError
from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.recent import Recent
from mirror.upstream.registry import Page

_BYTES = 8 * 2**20  # of memory for lists
_OVERHEAD = 1024  # bytes that a list takes beside its body

Question = tuple[Repository, Digest | None, tuple[tuple[str, str], ...]]
"""A repository, the subject of the referrers that are asked for (None: its tags), and the query."""


@dataclass(frozen=True, slots=True)
class ListPull:
    """A page of a list.

    Attributes:
        age: seconds since upstream sent it, where it is stale.
        failure: why upstream could not be asked again, where it is stale.
    """

    page: Page
    age: int = 0
    failure: MirrorError | None = None


@dataclass(frozen=True, slots=True)
class _Seen:
    page: Page
    at: float


class Lists:
    """What upstreams said when they were asked last. Lost when the mirror ends: until a list is seen, there is none."""

    def __init__(self, *, stale_for: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stale_for = stale_for
        self._clock = clock
        self._seen = Recent[Question, _Seen](_BYTES, weigh=lambda seen: len(seen.page.body) + _OVERHEAD)

    async def ask(self, question: Question, answer: Awaitable[Page]) -> ListPull:
        """Upstream's *answer*; where that fails, the one before.

        Raises:
            ContentUnknown: upstream says that there is no such list; one from before is forgotten.
            UpstreamError: it can't be asked, and has not been lately.
        """
        try:
            page = await answer
        except ContentUnknown:
            self._seen.drop(question)
            raise
        except UpstreamError as failure:
            seen = self._seen.get(question)
            age = 0.0 if seen is None else self._clock() - seen.at
            if seen is None or age >= self._stale_for:
                raise
            return ListPull(seen.page, int(age), failure)
        self._seen.keep(question, _Seen(page, self._clock()))
        return ListPull(page)
