"""A crowd before the mirror: connections that are idle, slow to ask, slow to read, or many."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable

from tests.http.client import Client
from tests.http.lines import Line
from tests.real.mirror import Mirror

_AT_ONCE = 100  # connections that are made at the same time
_KIB = 1024  # bytes a second for those that read slowly


class Crowd:
    """Members come in by kinds, and stay until the block ends."""

    def __init__(self, mirror: Mirror, tasks: asyncio.TaskGroup) -> None:
        self._mirror = mirror
        self._tasks = tasks
        self._doing: set[asyncio.Task[None]] = set()
        self._there = asyncio.Semaphore(_AT_ONCE)

    @classmethod
    @contextlib.asynccontextmanager
    async def before(cls, mirror: Mirror) -> AsyncIterator["Crowd"]:
        async with asyncio.TaskGroup() as tasks:
            crowd = cls(mirror, tasks)
            try:
                yield crowd
            finally:
                for task in crowd._doing:
                    task.cancel()

    async def idle(self, count: int) -> None:
        """Who has asked once, got the answer, and asks for nothing more."""

        async def stay(line: Line, ready: asyncio.Event) -> None:
            await line.get("/healthz")
            await line.answer()
            ready.set()
            await asyncio.Event().wait()

        await self._come(count, stay)

    async def slow_to_ask(self, count: int) -> None:
        """Who sends a byte of a header a second, and comes again when it is closed."""

        async def drip(line: Line, ready: asyncio.Event) -> None:
            with contextlib.suppress(ConnectionError):
                for byte in itertools.chain(b"GET /v2/ HTTP/1.1\r\n", itertools.cycle(b"X: y\r\n")):
                    await line.send(bytes([byte]))
                    ready.set()
                    await asyncio.sleep(1)

        await self._come(count, drip, again=True)

    async def slow_to_read(self, count: int, target: str) -> None:
        """Who asks for something large, and takes a KiB of it a second."""

        async def sip(line: Line, ready: asyncio.Event) -> None:
            await line.get(target)
            while await line.receive(_KIB):
                ready.set()
                await asyncio.sleep(1)
            raise AssertionError("the answer was cut")

        await self._come(count, sip)

    async def flooding(self, count: int) -> None:
        """Who sends headers without end, as fast as they are taken, and comes again when it is cut off."""

        async def flood(line: Line, ready: asyncio.Event) -> None:
            ready.set()
            with contextlib.suppress(ConnectionError):
                await line.send(b"GET /v2/ HTTP/1.1\r\nHost: m\r\n")
                while True:
                    await line.send(b"X-%d: " % random.getrandbits(32) + b"y" * 3000 + b"\r\n")

        await self._come(count, flood, again=True)

    async def _come(
        self,
        count: int,
        behave: Callable[[Line, asyncio.Event], Coroutine[object, object, None]],
        *,
        again: bool = False,
    ) -> None:
        """As many as *count*, who are there when this returns."""
        arrived = [asyncio.Event() for _ in range(count)]

        async def live(ready: asyncio.Event) -> None:
            while True:
                async with contextlib.AsyncExitStack() as stack:
                    async with self._there:
                        line = await stack.enter_async_context(Line.to(self._mirror))
                    await behave(line, ready)
                if not again:
                    return
                await asyncio.sleep(0.1)

        for ready in arrived:
            task = self._tasks.create_task(live(ready))
            self._doing.add(task)
            task.add_done_callback(self._doing.discard)
        await asyncio.gather(*(ready.wait() for ready in arrived))


async def pulled_at_once(client: Client, targets: Iterable[str]) -> int:
    """Ask for all of these at the same time; how many of the answers were 200 and whole."""
    replies = await asyncio.gather(*(client.get(target) for target in targets))
    return sum(reply.status == 200 and reply.whole for reply in replies)
