"""Hints: values with a TTL that only save time and may be lost at any moment.

The interface is aiocache's, so that nodes can share hints through another of its backends. The backend here is an LRU
cache in memory: aiocache's own has no bound, and keeps a timer for each entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar, cast

from aiocache.base import BaseCache
from aiocache.serializers import NullSerializer

from mirror.primitives.lru import LruCache

_Hint = TypeVar("_Hint")
_ENTRY_BYTES = 512  # of a key, its expiry and the cache's own bookkeeping


class _LruBackend(BaseCache):  # type: ignore[misc,no-any-unimported]  # aiocache has no types
    """aiocache's backend interface over an LruCache."""

    NAME = "lru"

    def __init__(self, cache: LruCache[str, object]) -> None:
        super().__init__(serializer=NullSerializer(), timeout=None)
        self._cache = cache

    async def _get(self, key: str, encoding: str = "utf-8", _conn: object = None) -> object:  # noqa: ARG002
        return self._cache.get(key)

    async def _gets(self, key: str, encoding: str = "utf-8", _conn: object = None) -> object:  # noqa: ARG002
        return self._cache.get(key)

    async def _multi_get(
        self,
        keys: Iterable[str],
        encoding: str = "utf-8",  # noqa: ARG002
        _conn: object = None,
    ) -> list[object]:
        return [self._cache.get(key) for key in keys]

    async def _set(
        self, key: str, value: object, ttl: float | None = None, _cas_token: object = None, _conn: object = None
    ) -> bool:
        if _cas_token is not None and _cas_token != self._cache.get(key):
            return False
        self._cache.set(key, value, ttl=ttl)
        return True

    async def _multi_set(
        self, pairs: Iterable[tuple[str, object]], ttl: float | None = None, _conn: object = None
    ) -> bool:
        for key, value in pairs:
            self._cache.set(key, value, ttl=ttl)
        return True

    async def _add(self, key: str, value: object, ttl: float | None = None, _conn: object = None) -> bool:
        if key in self._cache:
            raise ValueError(f"the hint {key!r} already exists")
        return await self._set(key, value, ttl=ttl)

    async def _exists(self, key: str, _conn: object = None) -> bool:
        return key in self._cache

    async def _expire(self, key: str, ttl: float, _conn: object = None) -> bool:
        value = self._cache.get(key)
        if value is None:
            return False
        self._cache.set(key, value, ttl=ttl)
        return True

    async def _delete(self, key: str, _conn: object = None) -> int:
        return int(self._cache.delete(key))

    async def _clear(self, namespace: str | None = None, _conn: object = None) -> bool:  # noqa: ARG002
        self._cache.clear()
        return True


class Hints(Generic[_Hint]):
    """Hints of one kind, by key, bounded in bytes and so in number: every entry weighs at least 512 bytes."""

    def __init__(self, max_bytes: int, *, weigh: Callable[[_Hint], int]) -> None:
        """*weigh* returns the bytes of memory that a hint takes."""
        self._cache = _LruBackend(LruCache(max_bytes, weigh=lambda hint: weigh(cast("_Hint", hint)) + _ENTRY_BYTES))

    async def get(self, key: str) -> _Hint | None:
        """Return the hint; None if it is absent, expired or evicted."""
        found: _Hint | None = await self._cache.get(key)
        return found

    async def set(self, key: str, hint: _Hint, *, ttl: float) -> None:
        """Store *hint* for *ttl* seconds; 0 stores nothing."""
        if ttl > 0:
            await self._cache.set(key, hint, ttl=ttl)

    async def delete(self, key: str) -> None:
        """Remove the hint, if it is present."""
        await self._cache.delete(key)
