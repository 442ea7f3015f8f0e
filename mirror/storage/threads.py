"""Thread pool for disk work: the event loop never waits for a disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

_Result = TypeVar("_Result")


class DiskThreads:
    """The threads of one store."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    @classmethod
    @contextmanager
    def running(cls, count: int, name: str) -> Iterator[DiskThreads]:
        """Start *count* threads. At the end of the context all their work is done."""
        with ThreadPoolExecutor(count, thread_name_prefix=name) as pool:
            yield cls(pool)

    def start(self, work: Callable[[], _Result]) -> asyncio.Future[_Result]:
        """Start *work*. It can't be cancelled."""
        return asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def run(self, work: Callable[[], _Result]) -> _Result:
        """Do *work* and return when it is done, also if the caller is cancelled: see `run_all`."""
        running = self.start(work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise

    async def run_all(self, *works: Callable[[], None]) -> None:
        """Do all *works* concurrently and return when all are done, also if the caller is cancelled.

        A file must not be closed while a thread still uses it, and a removed file takes its space until it is gone.
        """
        running = [self.start(work) for work in works]
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError:
            await asyncio.wait(running)
            raise
        for done in running:
            done.result()
