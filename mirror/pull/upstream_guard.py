"""The upstream guard: offline mode, the deadline of a pull, and the negative cache of 404s."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from mirror.errors import ContentUnknown, UpstreamTimeout
from mirror.oci.names import Reference, Repository, Tag
from mirror.origin import PullContext
from mirror.pull.negative_cache import NegativeCache

_Answer = TypeVar("_Answer")


class UpstreamGuard:
    """Decides whether an upstream may be asked, and for how long a pull waits.

    Attributes:
        offline: whether no upstream is ever asked.
    """

    def __init__(self, *, missing_for: float, deadline: float, offline: bool) -> None:
        """Seconds for which a 404 is cached, and within which a pull must have an answer."""
        self.offline = offline
        self._deadline = deadline
        self._negative = NegativeCache(ttl=missing_for)

    @asynccontextmanager
    async def deadline(
        self, repository: Repository, reference: Reference, *, continues: Callable[[], bool] = lambda: False
    ) -> AsyncIterator[None]:
        """End a pull that has no answer within the time that clients wait.

        Args:
            continues: returns whether the mirror goes on downloading without the client.

        Raises:
            UpstreamTimeout: if the time is over.
        """
        try:
            async with asyncio.timeout(self._deadline):
                yield
        except TimeoutError as error:
            more = " (the download continues)" if continues() else ""
            raise UpstreamTimeout(
                f"{repository.upstream} did not send {_named(repository.name, reference)} within {self._deadline:g} s: "
                f"pull again{more}",
                upstream=repository.upstream,
                retry_after=5,
            ) from error

    async def require_askable(self, context: PullContext, reference: Reference, unknown: type[ContentUnknown]) -> None:
        """Raise *unknown* if the mirror is offline, or the upstream answered this request with 404 a moment ago."""
        if self.offline:
            raise absent_offline(unknown, _named(context.repository.key, reference))
        if context.login is None:  # a 404 to one client's login must not be served to another client
            await self._negative.require_unknown(context.repository, reference, unknown)

    async def ask(self, context: PullContext, reference: Reference, answer: Awaitable[_Answer]) -> _Answer:
        """Return the upstream's answer, and cache it if it is a 404."""
        try:
            return await answer
        except ContentUnknown as unknown:
            if context.login is None:
                await self._negative.store(context.repository, reference, unknown)
            raise


def _named(repository: str, reference: Reference) -> str:
    return f"{repository}{':' if isinstance(reference, Tag) else '@'}{reference}"


def absent_offline(unknown: type[ContentUnknown], subject: str) -> ContentUnknown:
    """Return the error for content that is not cached while the mirror is offline."""
    return unknown(
        f"{subject} is not in the cache and the mirror is offline: run mirror warm and mirror export where the "
        f"upstream can be reached, then mirror import here",
        offline="yes",
    )
