"""Questions and answers of the mirror's own commands: JSON, and lines of JSON for what takes its time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from aiohttp import web

from mirror.errors import RouteUnknown

EVERY = 0.2  # seconds between two lines about the same thing


async def question(request: web.Request) -> dict[str, object]:
    """What is asked.

    Raises:
        RouteUnknown: nothing that can be understood.
    """
    try:
        found: object = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise RouteUnknown("the question is no JSON") from error
    return found if isinstance(found, dict) else {}


def texts_of(document: dict[str, object], key: str) -> list[str]:
    """The texts under *key*; none where there is no list of them."""
    found = document.get(key)
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


Say = Callable[[dict[str, object]], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def lines(request: web.Request) -> AsyncIterator[Say]:
    """An answer in lines of JSON; what fails after the first is a line with an error."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    writing = asyncio.Lock()

    async def say(line: dict[str, object]) -> web.StreamResponse:
        async with writing:
            if not response.prepared:
                await response.prepare(request)
            await response.write(json.dumps(line).encode() + b"\n")
        return response

    yield say


@asynccontextmanager
async def saying(say: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Says something now and then, until the context ends."""

    async def go_on() -> None:
        while True:
            await asyncio.sleep(EVERY)
            await say()

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, ConnectionError):
            await task
