"""Fair semaphore: bounds concurrency, and grants waiting callers round-robin by key.

Fairness is between keys, not between single calls: a key with five hundred waiting calls delays itself, not the other
keys. Invariant: while a call waits, no permit is free. A released permit goes to the next waiting call in the same step
of the event loop.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class FairSemaphore:
    """A semaphore with *capacity* permits: round-robin over the keys, first in, first out within a key."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free = capacity
        self._held = 0
        # By key, never an empty queue. The first key receives the next permit.
        self._queues: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def held(self) -> int:
        """The number of permits in use."""
        return self._held

    @property
    def waiting(self) -> int:
        """The number of calls that wait for a permit."""
        return sum(map(len, self._queues.values()))

    @asynccontextmanager
    async def acquire(self, key: Hashable) -> AsyncIterator[None]:
        """Wait for a permit, and hold it until the context ends."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(key)
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            self._release()

    async def _wait(self, key: Hashable) -> None:
        permit = asyncio.get_running_loop().create_future()
        self._queues.setdefault(key, deque()).append(permit)
        try:
            await permit
        except asyncio.CancelledError:
            if permit.cancelled():
                self._remove(key, permit)
            else:  # granted and cancelled in the same step: pass the permit on
                self._release()
            raise

    def _remove(self, key: Hashable, permit: asyncio.Future[None]) -> None:
        queue = self._queues.get(key, deque())
        if permit in queue:  # absent if `_release` met the cancelled future before this task ran
            queue.remove(permit)
            if not queue:
                del self._queues[key]

    def _release(self) -> None:
        """Grant a permit to the first key's oldest call, and move that key behind all others."""
        while self._queues:
            key = next(iter(self._queues))
            queue = self._queues.pop(key)
            permit = queue.popleft()
            if queue:
                self._queues[key] = queue
            if not permit.done():
                permit.set_result(None)
                return
        self._free += 1
