"""Single flight: one runs, all get its answer, and nobody's leaving matters to the others."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import UpstreamUnavailable
from mirror.primitives.singleflight import SingleFlight
from tests.unit.loops import new_loop


class UpstreamGuard:
    """Answers that come when a test says so."""

    def __init__(self) -> None:
        self.begun = Counter[str]()
        self.gates: dict[str, asyncio.Event] = {}
        self.failure: Exception | None = None

    async def answer(self, key: str) -> str:
        self.begun[key] += 1
        self.gates[key] = asyncio.Event()
        await self.gates[key].wait()
        if self.failure is not None:
            raise self.failure
        return f"{key} {self.begun[key]}"


@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=8), st.data())
def test_all_who_ask_meanwhile_get_one_answer(keys: list[str], data: st.DataObject) -> None:
    """For each key one task, however many ask and whoever of them leaves; the next asker after that begins anew."""
    leaving = data.draw(st.sets(st.integers(0, len(keys) - 1)))

    async def scene() -> None:
        questions = UpstreamGuard()
        async with SingleFlight[str, str]() as collapsed:
            askers = [
                asyncio.create_task(collapsed.ask(key, lambda key=key: questions.answer(key)))  # type: ignore[misc]
                for key in keys
            ]
            await asyncio.sleep(1)
            for number in leaving:
                askers[number].cancel()
            await asyncio.sleep(1)
            for gate in questions.gates.values():
                gate.set()
            answers = await asyncio.gather(*askers, return_exceptions=True)
            first = {key: keys.index(key) for key in keys}
            for number, (key, found) in enumerate(zip(keys, answers, strict=True)):
                if number in leaving:
                    assert isinstance(found, asyncio.CancelledError)
                else:
                    assert found == (f"{key} 1", number != first[key])
            assert questions.begun == dict.fromkeys(keys, 1)
            again = asyncio.create_task(collapsed.ask(keys[0], lambda: questions.answer(keys[0])))
            await asyncio.sleep(1)
            questions.gates[keys[0]].set()
            assert await again == (f"{keys[0]} 2", False)

    with new_loop() as loop:
        loop.run(scene())


def test_a_failure_is_everybodys() -> None:
    """Each asker gets it; the next one tries again; one that nobody waits for is no unseen exception."""

    async def scene() -> None:
        questions = UpstreamGuard()
        questions.failure = UpstreamUnavailable("refused")
        async with SingleFlight[str, str]() as collapsed:
            for leave in (False, True):
                askers = [asyncio.create_task(collapsed.ask("a", lambda: questions.answer("a"))) for _ in range(3)]
                await asyncio.sleep(1)
                for asker in askers:
                    if leave:
                        asker.cancel()
                questions.gates["a"].set()
                found = await asyncio.gather(*askers, return_exceptions=True)
                kind = asyncio.CancelledError if leave else UpstreamUnavailable
                assert [type(one) for one in found] == [kind] * 3
        assert questions.begun == {"a": 2}

    with new_loop() as loop:
        loop.run(scene())


def test_tasks_end_with_their_owner() -> None:
    """Leaving the context cancels what runs, and leaves nothing behind."""

    async def scene() -> None:
        questions = UpstreamGuard()
        async with SingleFlight[str, str]() as collapsed:
            asker = asyncio.create_task(collapsed.ask("a", lambda: questions.answer("a")))
            await asyncio.sleep(1)
        with pytest.raises(asyncio.CancelledError):
            await asker
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with new_loop() as loop:
        loop.run(scene())
