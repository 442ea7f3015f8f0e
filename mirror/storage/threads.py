"""Threads for disk work: the loop never waits for a disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

_Result = TypeVar("_Result")


class DiskThreads:
    """Some threads, for one store."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    @classmethod
    @contextmanager
    def running(cls, count: int, name: str) -> Iterator[DiskThreads]:
        """So many threads; at the end of the context all their work is done."""
        with ThreadPoolExecutor(count, thread_name_prefix=name) as pool:
            yield cls(pool)

    def start(self, work: Callable[[], _Result]) -> asyncio.Future[_Result]:
        """Begins it; nothing takes it back."""
        return asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def run(self, work: Callable[[], _Result]) -> _Result:
        """Does it, and comes back only when it is done, also when it is cancelled: see `run_all`."""
        running = self.start(work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise

    async def run_all(self, *works: Callable[[], None]) -> None:
        """Does all of it at the same time, and comes back only when all of it is done.

        Also when it is cancelled: what it works with must not be closed under a thread that still uses it, and what it
        removes takes its room until then.
        """
        running = [self.start(work) for work in works]
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError:
            await asyncio.wait(running)
            raise
        for done in running:
            done.result()
