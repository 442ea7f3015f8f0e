"""Several inputs at once, and a look at the mirror between them."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from tests.fuzz.stage import Stage

AT_ONCE = 32
_BATCH = 500  # inputs between two looks at health and log


async def crowd(staged: Stage, numbers: Iterable[int], send: Callable[[int], Awaitable[None]]) -> None:
    """Sends the inputs of these *numbers*, some at once."""
    waiting = iter(numbers)

    async def worker() -> None:
        for number in waiting:
            await send(number)
            if number % _BATCH == _BATCH - 1:
                await staged.check_health(number)
                staged.check_log(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(worker())
