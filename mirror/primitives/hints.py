"""Hints: what makes things faster, has a time to live, and may be lost (in aiocache: memory now, shared one day)."""

from __future__ import annotations

from typing import Generic, TypeVar

from aiocache import SimpleMemoryCache

_Hint = TypeVar("_Hint")


class Hints(Generic[_Hint]):
    """Values of one kind, by key."""

    def __init__(self) -> None:
        self._cache = SimpleMemoryCache()

    async def get(self, key: str) -> _Hint | None:
        found: _Hint | None = await self._cache.get(key)
        return found

    async def keep(self, key: str, hint: _Hint, *, seconds: float) -> None:
        """Keeps *hint* for so long; not at all for 0 seconds."""
        if seconds > 0:
            await self._cache.set(key, hint, ttl=seconds)

    async def drop(self, key: str) -> None:
        await self._cache.delete(key)
