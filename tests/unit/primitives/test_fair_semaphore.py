"""Fair semaphore: never more permits than its capacity, none lost, and no key starved by another."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mirror.primitives.fair_semaphore import FairSemaphore
from tests.unit.loops import Loop, new_loop

KEYS = "abcd"


@dataclass(eq=False)
class Call:
    """A call that acquires a permit, and releases it when the test says so."""

    key: str
    ahead: int | None = None  # calls of its key that waited when it began to wait; None before
    others: Counter[str] = field(default_factory=Counter)  # permits granted to other keys while it waited
    done: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    async def take(self, semaphore: FairSemaphore, table: "Table") -> None:
        self.ahead = sum(one.key == self.key and one.ahead is not None for one in table.waiting)
        async with semaphore.acquire(self.key):
            table.waiting.remove(self)
            table.holding.append(self)
            for other in table.waiting:
                if other.ahead is not None:
                    other.others[self.key] += 1
            try:
                await self.done.wait()
            finally:
                table.holding.remove(self)


@dataclass
class Table:
    """The calls that wait and the calls that hold, as recorded by the calls."""

    waiting: list[Call] = field(default_factory=list)
    holding: list[Call] = field(default_factory=list)


steps = st.tuples(st.sampled_from(["ask", "ask", "end", "leave waiting", "leave holding"]), st.integers(0, 7))


class FairSemaphoreMachine(RuleBasedStateMachine):
    """Several events happen in one step of the loop, before any waiting call can run."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = Loop()
        self.table = Table()
        self.tasks: list[asyncio.Task[None]] = []

    @initialize(most=st.integers(1, 3))
    def begin(self, most: int) -> None:
        self.most = most
        self.semaphore = FairSemaphore(most)

    @rule(happening=st.lists(steps, max_size=5), pauses=st.lists(st.booleans(), min_size=5, max_size=5))
    def happens(self, happening: list[tuple[str, int]], pauses: list[bool]) -> None:
        async def scene() -> None:
            for (what, pick), pause in zip(happening, pauses, strict=False):
                self.step(what, pick)
                if pause:
                    await asyncio.sleep(0)

        self.loop.run(scene())
        self.loop.settle()

    def step(self, what: str, pick: int) -> None:
        waiting, holding = self.table.waiting, self.table.holding
        if what == "ask":
            call = Call(KEYS[pick % len(KEYS)])
            waiting.append(call)
            call.task = self.loop.create_task(call.take(self.semaphore, self.table))
            self.tasks.append(call.task)
        elif what == "end" and holding:
            holding[pick % len(holding)].done.set()
        elif what == "leave waiting" and waiting:
            self.cancel(waiting.pop(pick % len(waiting)))
        elif what == "leave holding" and holding:
            self.cancel(holding[pick % len(holding)])

    def cancel(self, call: Call) -> None:
        assert call.task is not None
        call.task.cancel()

    @invariant()
    def no_permit_is_lost(self) -> None:
        """After each step, as many permits are held as calls want, up to the capacity."""
        if not hasattr(self, "semaphore"):
            return
        wanted = len(self.table.waiting) + len(self.table.holding)
        assert len(self.table.holding) == self.semaphore.held == min(wanted, self.most)
        assert len(self.table.waiting) == self.semaphore.waiting

    @invariant()
    def no_key_is_starved(self) -> None:
        """Before the n-th call of a key is granted, no other key has more than n grants, but for those in transit."""
        for one in self.table.waiting:
            assert one.ahead is not None
            assert max(one.others[key] for key in KEYS if key != one.key) <= one.ahead + 1 + self.most

    def teardown(self) -> None:
        async def end() -> None:
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

        self.loop.run(end())
        if hasattr(self, "semaphore"):
            assert (self.semaphore.held, self.semaphore.waiting) == (0, 0)
        self.loop.close()


TestFairSemaphore = FairSemaphoreMachine.TestCase


@given(st.lists(st.sampled_from(KEYS), max_size=20))
def test_waiting_calls_are_granted_round_robin(keys: list[str]) -> None:
    """One call of each key, then the next of each; first in, first out within a key."""
    granted: list[tuple[str, int]] = []

    async def one(semaphore: FairSemaphore, key: str, number: int) -> None:
        async with semaphore.acquire(key):
            granted.append((key, number))
            await asyncio.sleep(1)

    async def scene() -> None:
        semaphore = FairSemaphore(1)
        async with semaphore.acquire("first"):
            calls = [asyncio.create_task(one(semaphore, key, at)) for at, key in enumerate(keys)]
            await asyncio.sleep(1)
            assert (semaphore.held, semaphore.waiting) == (1, len(keys))
        await asyncio.gather(*calls)

    with new_loop() as loop:
        loop.run(scene())
    own = Counter[str]()
    rounds = []
    for at, key in enumerate(keys):
        rounds.append((own[key], list(dict.fromkeys(keys)).index(key), key, at))
        own[key] += 1
    assert granted == [(key, at) for _, _, key, at in sorted(rounds)]


def test_permit_is_released_after_an_error() -> None:
    """The exception leaves the context, and the permit is free again."""

    async def scene() -> None:
        semaphore = FairSemaphore(1)
        with pytest.raises(ValueError, match="broken"):
            async with semaphore.acquire("a"):
                raise ValueError("broken")
        async with semaphore.acquire("b"):
            assert semaphore.held == 1

    with new_loop() as loop:
        loop.run(scene())
