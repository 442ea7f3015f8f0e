"""The upstream guard: offline mode, the deadline of a pull, and the negative cache of 404s."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from mirror.errors import ContentUnknown, UpstreamTimeout
from mirror.oci.names import Reference, Repository, Tag
from mirror.origin import PullContext
from mirror.primitives.hints import Hints

_Answer = TypeVar("_Answer")
_NEGATIVE_BYTES = 8 * 2**20  # of memory for cached 404s: about 8,000


@dataclass(frozen=True, slots=True)
class _NotFound:
    """A cached 404. An exception would keep its traceback, and with it the frames of a request: 16 KiB a name."""

    kind: type[ContentUnknown]
    message: str
    detail: Mapping[str, str | int]
    retry_after: int | None

    @classmethod
    def of(cls, error: ContentUnknown) -> _NotFound:
        return cls(type(error), str(error), error.detail, error.retry_after)

    def error(self) -> ContentUnknown:
        return self.kind(self.message, retry_after=self.retry_after, **self.detail)

    @staticmethod
    def weight(one: _NotFound) -> int:
        return len(one.message) + 256


class UpstreamGuard:
    """Decides whether an upstream may be asked, and for how long a pull waits.

    Attributes:
        offline: whether no upstream is ever asked.
    """

    def __init__(self, *, missing_for: float, deadline: float, offline: bool) -> None:
        """Seconds for which a 404 is cached, and within which a pull must have an answer."""
        self.offline = offline
        self._missing_for = missing_for
        self._deadline = deadline
        self._missing = Hints[_NotFound](_NEGATIVE_BYTES, weigh=_NotFound.weight)

    @asynccontextmanager
    async def deadline(self, repository: Repository) -> AsyncIterator[None]:
        """End a pull that has no answer within the time that clients wait.

        Raises:
            UpstreamTimeout
        """
        try:
            async with asyncio.timeout(self._deadline):
                yield
        except TimeoutError as error:
            raise UpstreamTimeout(
                f"{repository.upstream} did not deliver this within {self._deadline:g} s; pull again: the download "
                f"continues",
                upstream=repository.upstream,
                retry_after=5,
            ) from error

    async def require_askable(self, context: PullContext, reference: Reference, unknown: type[ContentUnknown]) -> None:
        """Raise *unknown* if the mirror is offline, or the upstream answered this request with 404 a moment ago."""
        if self.offline:
            separator = ":" if isinstance(reference, Tag) else "@"
            raise absent_offline(unknown, f"{context.repository}{separator}{reference}")
        if context.login is None:  # a 404 to one client's login must not be served to another client
            known = await self._missing.get(_key(context.repository, reference, unknown))
            if known is not None:
                raise known.error()

    async def ask(self, context: PullContext, reference: Reference, answer: Awaitable[_Answer]) -> _Answer:
        """Return the upstream's answer, and cache it if it is a 404."""
        try:
            return await answer
        except ContentUnknown as unknown:
            if context.login is None:
                key = _key(context.repository, reference, type(unknown))
                await self._missing.set(key, _NotFound.of(unknown), ttl=self._missing_for)
            raise


def absent_offline(unknown: type[ContentUnknown], subject: str) -> ContentUnknown:
    """Return the error for content that is not cached while the mirror is offline."""
    return unknown(
        f"{subject} is not in the cache and the mirror is offline: run mirror warm and mirror export where the "
        f"upstream can be reached, then mirror import here",
        offline="yes",
    )


def _key(repository: Repository, reference: Reference, unknown: type[ContentUnknown]) -> str:
    return f"{unknown.code} {repository} {reference}"
