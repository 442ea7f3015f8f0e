"""Questions to upstreams: whether they may be asked now, how long one waits for them, and their last 404s."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass
from typing import TypeVar

from mirror.errors import ContentUnknown, UpstreamTimeout
from mirror.oci.names import Reference, Repository, Tag
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
    """The terms on which upstreams are asked.

    Attributes:
        offline: whether nothing is ever asked.
    """

    def __init__(self, *, missing_for: float, patience: float, offline: bool) -> None:
        """Seconds for which a 404 is remembered, and in which a pull has to come to something."""
        self.offline = offline
        self._missing_for = missing_for
        self._patience = patience
        self._missing: Hints[_NotFound] | None = Hints(_NEGATIVE_BYTES, weigh=_NotFound.weight)

    def unremembered(self) -> UpstreamGuard:
        """The same for a client with rights of its own: what it is told is no answer to another."""
        own = copy(self)
        own._missing = None  # noqa: SLF001 - of its own kind
        return own

    @asynccontextmanager
    async def patiently(self, repository: Repository) -> AsyncIterator[None]:
        """Ends a pull that has come to nothing in the time that clients wait, whatever it is waiting for.

        Raises:
            UpstreamTimeout
        """
        try:
            async with asyncio.timeout(self._patience):
                yield
        except TimeoutError as error:
            raise UpstreamTimeout(
                f"{repository.upstream} did not bring this within {self._patience:g} s; ask again, it may be here then",
                upstream=repository.upstream,
                retry_after=5,
            ) from error

    async def check(self, repository: Repository, reference: Reference, unknown: type[ContentUnknown]) -> None:
        """Lets a question pass, unless upstream must not be asked, or just answered it with 404.

        Raises:
            ContentUnknown: of the kind *unknown*.
        """
        if self.offline:
            raise absent(
                unknown, f"{repository}:{reference}" if isinstance(reference, Tag) else f"{repository}@{reference}"
            )
        known = None if self._missing is None else await self._missing.get(_key(repository, reference, unknown))
        if known is not None:
            raise known.error()

    async def ask(self, repository: Repository, reference: Reference, answer: Awaitable[_Answer]) -> _Answer:
        """Upstream's answer; a 404 is remembered for a while."""
        try:
            return await answer
        except ContentUnknown as unknown:
            if self._missing is not None:
                key = _key(repository, reference, type(unknown))
                await self._missing.set(key, _NotFound.of(unknown), ttl=self._missing_for)
            raise


def absent(unknown: type[ContentUnknown], what: str) -> ContentUnknown:
    """What offline mode says of what is not here."""
    return unknown(
        f"{what} is not here and the mirror is offline: mirror warm and mirror export where upstream can be reached, "
        f"then mirror import here",
        offline="yes",
    )


def _key(repository: Repository, reference: Reference, unknown: type[ContentUnknown]) -> str:
    return f"{unknown.code} {repository} {reference}"
