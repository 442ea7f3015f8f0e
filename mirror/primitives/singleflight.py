"""Singleflight: concurrent calls with one key share one task and its result (collapsed requests, RFC 9211, 2.4).

Blobs do not pass through here: `pull/downloads` merges their downloads. KeyedLock is the counterpart for calls that
must each do their own work, one at a time for each key.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Generic, Self, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Result = TypeVar("_Result")


class SingleFlight(Generic[_Key, _Result]):
    """Runs at most one task for each key. The tasks belong to this object: a cancelled caller does not stop one."""

    def __init__(self) -> None:
        self._running: dict[_Key, asyncio.Task[_Result]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def do(self, key: _Key, work: Callable[[], Awaitable[_Result]]) -> tuple[_Result, bool]:
        """Join the running task of *key*, or start *work* as a new one, and wait for its result.

        Returns:
            the result, and whether the call joined a task that another call had started.

        Raises:
            Exception: if *work* raises it; every caller receives it.
        """
        task = self._running.get(key)
        joined = task is not None
        if task is None:
            task = asyncio.ensure_future(self._run(work))
            self._running[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task), joined

    async def _run(self, work: Callable[[], Awaitable[_Result]]) -> _Result:
        return await work()

    def _forget(self, key: _Key, task: asyncio.Task[_Result]) -> None:
        if self._running.get(key) is task:
            del self._running[key]
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not log it after every caller was cancelled


class KeyedLock(Generic[_Key]):
    """A mutex for each key, which exists only while it is held or awaited."""

    def __init__(self) -> None:
        self._locks: dict[_Key, _CountedLock] = {}

    @asynccontextmanager
    async def hold(self, key: _Key) -> AsyncIterator[None]:
        """Wait for the lock of *key*, and hold it until the context ends."""
        counted = self._locks.setdefault(key, _CountedLock())
        counted.users += 1
        try:
            async with counted.lock:
                yield
        finally:
            counted.users -= 1
            if not counted.users:
                del self._locks[key]


class _CountedLock:
    """A lock, and the number of tasks that hold it or wait for it."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0
