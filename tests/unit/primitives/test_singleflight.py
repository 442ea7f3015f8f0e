"""Singleflight: one task for each key, its result for every caller, and no effect of cancelled callers."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import UpstreamUnavailable
from mirror.primitives.singleflight import SingleFlight
from tests.unit.loops import new_loop


class Work:
    """Work whose results are released by the test."""

    def __init__(self) -> None:
        self.starts = Counter[str]()
        self.gates: dict[str, asyncio.Event] = {}
        self.failure: Exception | None = None

    async def run(self, key: str) -> str:
        self.starts[key] += 1
        self.gates[key] = asyncio.Event()
        await self.gates[key].wait()
        if self.failure is not None:
            raise self.failure
        return f"{key} {self.starts[key]}"


@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=8), st.data())
def test_concurrent_calls_share_one_result(keys: list[str], data: st.DataObject) -> None:
    """One task for each key, whichever callers are cancelled. A later call starts a new task."""
    cancelled = data.draw(st.sets(st.integers(0, len(keys) - 1)))

    async def scene() -> None:
        work = Work()
        async with SingleFlight[str, str]() as flight:
            callers = [
                asyncio.create_task(flight.do(key, lambda key=key: work.run(key)))  # type: ignore[misc]
                for key in keys
            ]
            await asyncio.sleep(1)
            for number in cancelled:
                callers[number].cancel()
            await asyncio.sleep(1)
            for gate in work.gates.values():
                gate.set()
            results = await asyncio.gather(*callers, return_exceptions=True)
            first = {key: keys.index(key) for key in keys}
            for number, (key, found) in enumerate(zip(keys, results, strict=True)):
                if number in cancelled:
                    assert isinstance(found, asyncio.CancelledError)
                else:
                    assert found == (f"{key} 1", number != first[key])
            assert work.starts == dict.fromkeys(keys, 1)
            again = asyncio.create_task(flight.do(keys[0], lambda: work.run(keys[0])))
            await asyncio.sleep(1)
            work.gates[keys[0]].set()
            assert await again == (f"{keys[0]} 2", False)

    with new_loop() as loop:
        loop.run(scene())


def test_failure_is_raised_to_every_caller() -> None:
    """The next call tries again. A failure without callers is not reported as never retrieved."""

    async def scene() -> None:
        work = Work()
        work.failure = UpstreamUnavailable("refused")
        async with SingleFlight[str, str]() as flight:
            for cancel in (False, True):
                callers = [asyncio.create_task(flight.do("a", lambda: work.run("a"))) for _ in range(3)]
                await asyncio.sleep(1)
                for caller in callers:
                    if cancel:
                        caller.cancel()
                work.gates["a"].set()
                found = await asyncio.gather(*callers, return_exceptions=True)
                kind = asyncio.CancelledError if cancel else UpstreamUnavailable
                assert [type(one) for one in found] == [kind] * 3
        assert work.starts == {"a": 2}

    with new_loop() as loop:
        loop.run(scene())


def test_tasks_are_cancelled_on_exit() -> None:
    """No task remains after the context ends."""

    async def scene() -> None:
        work = Work()
        async with SingleFlight[str, str]() as flight:
            caller = asyncio.create_task(flight.do("a", lambda: work.run("a")))
            await asyncio.sleep(1)
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with new_loop() as loop:
        loop.run(scene())
