"""Negative cache: an upstream's 404s, remembered for a few seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mirror.errors import ContentUnknown
from mirror.oci.names import Reference, Repository
from mirror.primitives.hints import Hints

_MAX_BYTES = 8 * 2**20  # of memory: about 8,000 entries
_OVERHEAD = 256  # bytes of memory that an entry takes beside its message


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
        return len(one.message) + _OVERHEAD


class NegativeCache:
    """404s by repository, reference and kind."""

    def __init__(self, *, ttl: float) -> None:
        """*ttl*: seconds for which a 404 is cached; 0 caches none."""
        self._ttl = ttl
        self._entries = Hints[_NotFound](_MAX_BYTES, weigh=_NotFound.weight)

    async def require_unknown(self, repository: Repository, reference: Reference, kind: type[ContentUnknown]) -> None:
        """Raise the cached 404 of that *kind*, if there is one."""
        found = await self._entries.get(_key(repository, reference, kind))
        if found is not None:
            raise found.error()

    async def store(self, repository: Repository, reference: Reference, error: ContentUnknown) -> None:
        """Cache a 404 that the upstream just answered."""
        await self._entries.set(_key(repository, reference, type(error)), _NotFound.of(error), ttl=self._ttl)


def _key(repository: Repository, reference: Reference, kind: type[ContentUnknown]) -> str:
    return f"{kind.code} {repository} {reference}"
