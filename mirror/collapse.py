"""Collapsed requests (RFC 9211, 2.4): many ask the same, one is under way, all get its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from types import TracebackType
from typing import Generic, Self, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Answer = TypeVar("_Answer")


class Collapsed(Generic[_Key, _Answer]):
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
