"""Turns: never more than there are, none lost, and nobody waits for another one's many questions."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mirror.primitives.fair_semaphore import FairSemaphore
from tests.unit.loops import Loop, new_loop

ASKERS = "abcd"


@dataclass(eq=False)
class Asking:
    """Somebody who wants a turn, and gives it back when told."""

    asker: str
    ahead: int | None = None  # of its own, that waited when it began to wait; None before
    others: Counter[str] = field(default_factory=Counter)  # turns that went to others while it waited
    done: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    async def take(self, turns: FairSemaphore, table: "Table") -> None:
        self.ahead = sum(one.asker == self.asker and one.ahead is not None for one in table.waiting)
        async with turns.turn(self.asker):
            table.waiting.remove(self)
            table.holding.append(self)
            for other in table.waiting:
                if other.ahead is not None:
                    other.others[self.asker] += 1
            try:
                await self.done.wait()
            finally:
                table.holding.remove(self)


@dataclass
class Table:
    """Who waits and who holds, as they themselves see it."""

    waiting: list[Asking] = field(default_factory=list)
    holding: list[Asking] = field(default_factory=list)


steps = st.tuples(st.sampled_from(["ask", "ask", "end", "leave waiting", "leave holding"]), st.integers(0, 7))


class TurnsMachine(RuleBasedStateMachine):
    """Several things happen in one step of the loop, before anybody who waits can run."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = Loop()
        self.table = Table()
        self.tasks: list[asyncio.Task[None]] = []

    @initialize(most=st.integers(1, 3))
    def begin(self, most: int) -> None:
        self.most = most
        self.turns = FairSemaphore(most)

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
            asking = Asking(ASKERS[pick % len(ASKERS)])
            waiting.append(asking)
            asking.task = self.loop.create_task(asking.take(self.turns, self.table))
            self.tasks.append(asking.task)
        elif what == "end" and holding:
            holding[pick % len(holding)].done.set()
        elif what == "leave waiting" and waiting:
            self.cancel(waiting.pop(pick % len(waiting)))
        elif what == "leave holding" and holding:
            self.cancel(holding[pick % len(holding)])

    def cancel(self, asking: Asking) -> None:
        assert asking.task is not None
        asking.task.cancel()

    @invariant()
    def none_is_lost(self) -> None:
        """After each step all turns are taken that somebody wants, and no more than there are."""
        if not hasattr(self, "turns"):
            return
        wanted = len(self.table.waiting) + len(self.table.holding)
        assert len(self.table.holding) == self.turns.taken == min(wanted, self.most)
        assert len(self.table.waiting) == self.turns.waiting

    @invariant()
    def nobody_is_starved(self) -> None:
        """Before its n-th question is taken, no other asker has had more than n; but for turns on their way to it."""
        for one in self.table.waiting:
            assert one.ahead is not None
            assert max(one.others[asker] for asker in ASKERS if asker != one.asker) <= one.ahead + 1 + self.most

    def teardown(self) -> None:
        async def end() -> None:
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

        self.loop.run(end())
        if hasattr(self, "turns"):
            assert (self.turns.taken, self.turns.waiting) == (0, 0)
        self.loop.close()


TestTurns = TurnsMachine.TestCase


@given(st.lists(st.sampled_from(ASKERS), max_size=20))
def test_who_waits_is_taken_in_rounds(askers: list[str]) -> None:
    """One of each asker, then the next of each; an asker's own in the order of asking."""
    taken: list[tuple[str, int]] = []

    async def one(turns: FairSemaphore, asker: str, number: int) -> None:
        async with turns.turn(asker):
            taken.append((asker, number))
            await asyncio.sleep(1)

    async def scene() -> None:
        turns = FairSemaphore(1)
        async with turns.turn("first"):
            asking = [asyncio.create_task(one(turns, asker, at)) for at, asker in enumerate(askers)]
            await asyncio.sleep(1)
            assert (turns.taken, turns.waiting) == (1, len(askers))
        await asyncio.gather(*asking)

    with new_loop() as loop:
        loop.run(scene())
    own = Counter[str]()
    rounds = []
    for at, asker in enumerate(askers):
        rounds.append((own[asker], list(dict.fromkeys(askers)).index(asker), asker, at))
        own[asker] += 1
    assert taken == [(asker, at) for _, _, asker, at in sorted(rounds)]


def test_a_turn_is_given_back_whatever_ends_it() -> None:
    """An error too."""

    async def scene() -> None:
        turns = FairSemaphore(1)
        with pytest.raises(ValueError, match="broken"):
            async with turns.turn("a"):
                raise ValueError("broken")
        async with turns.turn("b"):
            assert turns.taken == 1

    with new_loop() as loop:
        loop.run(scene())
