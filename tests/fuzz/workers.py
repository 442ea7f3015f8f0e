"""Run several inputs at once, and check the mirror's health and log regularly."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from tests.fuzz.watched_mirror import WatchedMirror

AT_ONCE = 32
_BATCH = 500  # inputs between two checks of health and log


async def run_concurrently(
    mirror: WatchedMirror, numbers: Iterable[int], send: Callable[[int], Awaitable[None]]
) -> None:
    """Send the inputs of these *numbers*, AT_ONCE of them at a time."""
    remaining = iter(numbers)

    async def worker() -> None:
        for number in remaining:
            await send(number)
            if number % _BATCH == _BATCH - 1:
                await mirror.check_health(number)
                mirror.check_log(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(worker())
