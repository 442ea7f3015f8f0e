"""Collapsed requests (RFC 9211, 2.4): many ask the same, one is under way, all get its answer.

And exclusion, where each has to do its own: one after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Generic, Self, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Answer = TypeVar("_Answer")


class SingleFlight(Generic[_Key, _Answer]):
    """Runs one task for each key at a time. The tasks belong to this object, not to who asks: askers may leave."""

    def __init__(self) -> None:
        self._running: dict[_Key, asyncio.Task[_Answer]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def ask(self, key: _Key, begin: Callable[[], Awaitable[_Answer]]) -> tuple[_Answer, bool]:
        """The answer for *key*, of the task under way or of a new one.

        Returns:
            the answer, and whether it came of a task that another asker began.

        Raises:
            what *begin* raises, to each asker alike.
        """
        task = self._running.get(key)
        joined = task is not None
        if task is None:
            task = asyncio.ensure_future(self._run(begin))
            self._running[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task), joined

    async def _run(self, begin: Callable[[], Awaitable[_Answer]]) -> _Answer:
        return await begin()

    def _forget(self, key: _Key, task: asyncio.Task[_Answer]) -> None:
        if self._running.get(key) is task:
            del self._running[key]
        if not task.cancelled():
            task.exception()  # seen, even where every asker has left


class KeyedLock(Generic[_Key]):
    """Lets one in for each key at a time; who comes later waits."""

    def __init__(self) -> None:
        self._doors: dict[_Key, _Door] = {}

    @asynccontextmanager
    async def of(self, key: _Key) -> AsyncIterator[None]:
        """Alone with *key*, as long as the block lasts."""
        door = self._doors.setdefault(key, _Door())
        door.users += 1
        try:
            async with door.lock:
                yield
        finally:
            door.users -= 1
            if not door.users:
                del self._doors[key]


class _Door:
    """A lock, and how many are inside or wait."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0
