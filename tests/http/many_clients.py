"""Many concurrent connections to the mirror: idle, slow to send, slow to read, or flooding it."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable

from tests.http.client import Client
from tests.http.raw_connection import RawConnection
from tests.real.mirror import Mirror

_AT_ONCE = 100  # connections opened at the same time
_KIB = 1024  # bytes per second of a slow reader


class ManyClients:
    """Connections of several kinds, which stay open until the block ends."""

    def __init__(self, mirror: Mirror, tasks: asyncio.TaskGroup) -> None:
        self._mirror = mirror
        self._tasks = tasks
        self._running: set[asyncio.Task[None]] = set()
        self._connecting = asyncio.Semaphore(_AT_ONCE)

    @classmethod
    @contextlib.asynccontextmanager
    async def before(cls, mirror: Mirror) -> AsyncIterator["ManyClients"]:
        async with asyncio.TaskGroup() as tasks:
            clients = cls(mirror, tasks)
            try:
                yield clients
            finally:
                for task in clients._running:
                    task.cancel()

    async def idle(self, count: int) -> None:
        """Open connections that send one request, read the response, and stay idle."""

        async def stay_idle(connection: RawConnection, ready: asyncio.Event) -> None:
            await connection.get("/healthz")
            await connection.answer()
            ready.set()
            await asyncio.Event().wait()

        await self._open(count, stay_idle)

    async def slow_to_ask(self, count: int) -> None:
        """Open connections that send one byte of a header per second, and reconnect when they are closed."""

        async def send_slowly(connection: RawConnection, ready: asyncio.Event) -> None:
            with contextlib.suppress(ConnectionError):
                for byte in itertools.chain(b"GET /v2/ HTTP/1.1\r\n", itertools.cycle(b"X: y\r\n")):
                    await connection.send(bytes([byte]))
                    ready.set()
                    await asyncio.sleep(1)

        await self._open(count, send_slowly, again=True)

    async def slow_to_read(self, count: int, target: str) -> None:
        """Open connections that request something large, and read one KiB of it per second."""

        async def read_slowly(connection: RawConnection, ready: asyncio.Event) -> None:
            await connection.get(target)
            while await connection.receive(_KIB):
                ready.set()
                await asyncio.sleep(1)
            raise AssertionError("the response was truncated")

        await self._open(count, read_slowly)

    async def flooding(self, count: int) -> None:
        """Open connections that send endless headers as fast as possible, and reconnect when they are closed."""

        async def flood(connection: RawConnection, ready: asyncio.Event) -> None:
            ready.set()
            with contextlib.suppress(ConnectionError):
                await connection.send(b"GET /v2/ HTTP/1.1\r\nHost: m\r\n")
                while True:
                    await connection.send(b"X-%d: " % random.getrandbits(32) + b"y" * 3000 + b"\r\n")

        await self._open(count, flood, again=True)

    async def _open(
        self,
        count: int,
        behave: Callable[[RawConnection, asyncio.Event], Coroutine[object, object, None]],
        *,
        again: bool = False,
    ) -> None:
        """Open *count* connections; return when all of them are in their intended state."""
        ready_events = [asyncio.Event() for _ in range(count)]

        async def run(ready: asyncio.Event) -> None:
            while True:
                async with contextlib.AsyncExitStack() as stack:
                    async with self._connecting:
                        connection = await stack.enter_async_context(RawConnection.to(self._mirror))
                    await behave(connection, ready)
                if not again:
                    return
                await asyncio.sleep(0.1)

        for ready in ready_events:
            task = self._tasks.create_task(run(ready))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        await asyncio.gather(*(ready.wait() for ready in ready_events))


async def pull_concurrently(client: Client, targets: Iterable[str]) -> int:
    """Request all targets at the same time; return how many responses were 200 and complete."""
    replies = await asyncio.gather(*(client.get(target) for target in targets))
    return sum(reply.status == 200 and reply.whole for reply in replies)
