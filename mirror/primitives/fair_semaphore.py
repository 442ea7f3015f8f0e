"""Turns: so many at once, and who waits is taken fairly.

Fair between askers, not between questions: one that asks five hundred times waits for its own, and not everybody
else for it. Its law: while anybody waits, no turn is free; a turn that is given up goes to the next in the same step.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class FairSemaphore:
    """Hands out *most* turns at a time: round-robin over those who ask, and to each in the order of asking."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._free = most
        self._taken = 0
        self._queues: OrderedDict[Hashable, deque[asyncio.Future[None]]] = (
            OrderedDict()
        )  # none is empty; the first is next

    @property
    def taken(self) -> int:
        """How many turns are held."""
        return self._taken

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return sum(map(len, self._queues.values()))

    @asynccontextmanager
    async def turn(self, asker: Hashable) -> AsyncIterator[None]:
        """Waits for a turn, and holds it until the context ends."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(asker)
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
            self._pass_on()

    async def _wait(self, asker: Hashable) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._queues.setdefault(asker, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(asker, turn)
            else:  # it came in the very moment of leaving
                self._pass_on()
            raise

    def _leave(self, asker: Hashable, turn: asyncio.Future[None]) -> None:
        queue = self._queues.get(asker, deque())
        if turn in queue:  # or it was cancelled and passed over before this task ran
            queue.remove(turn)
            if not queue:
                del self._queues[asker]

    def _pass_on(self) -> None:
        """Gives a turn to the next who waits; that asker's others then come after everybody else's."""
        while self._queues:
            asker = next(iter(self._queues))
            queue = self._queues.pop(asker)
            turn = queue.popleft()
            if queue:
                self._queues[asker] = queue
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
