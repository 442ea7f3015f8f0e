"""A connection's socket and a blob's file, lent to a thread: nobody closes them before it is done."""

import asyncio
import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, ParamSpec, TypeVar

import pytest
from aiohttp import web

from mirror.config import LimitSettings
from mirror.server.connections import Connections
from mirror.server.framing import malformed
from mirror.server.listener import Listener
from mirror.server.response import sent
from mirror.server.response_writer import writer_for

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

SIZE = 2**20
TURNS = 100  # of the loop, in which whoever was cancelled could end


class BusyThreads(ThreadPoolExecutor):
    """Threads that get the processor only when a test lets them have it."""

    def __init__(self) -> None:
        super().__init__(max_workers=1)
        self.taken = threading.Event()
        self.free = threading.Event()

    def submit(
        self, fn: Callable[_Arguments, _Result], /, *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> Future[_Result]:
        def late() -> _Result:
            self.taken.set()
            self.free.wait(10)
            return fn(*args, **kwargs)

        return super().submit(late)


class WholeFile:
    """Content that is all there."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    @property
    def size(self) -> int:
        return SIZE

    def fileno(self) -> int:
        return self._file.fileno()

    async def reach(self, offset: int) -> int:
        return SIZE


@pytest.fixture
def file_on_disk() -> Iterator[IO[bytes]]:
    """A file of which nothing is in memory, so that a thread has to send it."""
    with tempfile.TemporaryFile(dir="/var/tmp") as file:
        file.write(b"A" * SIZE)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        yield file


@contextlib.asynccontextmanager
async def sending(file: IO[bytes]) -> AsyncIterator[tuple[asyncio.Task[None], asyncio.StreamReader]]:
    """The task that sends a file over a Channel, and the client's end of its connection."""
    begun: asyncio.Future[asyncio.Task[None]] = asyncio.get_running_loop().create_future()

    async def send(request: web.BaseRequest) -> None:
        async with writer_for(request) as channel:
            await channel.copy(WholeFile(file), 0, SIZE)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        task = asyncio.create_task(send(request))
        begun.set_result(task)
        await asyncio.wait([task])
        return sent(keep_alive=False)

    port = socket.create_server(("127.0.0.1", 0))
    port.setblocking(False)
    connections = Connections(handle, malformed, LimitSettings(), most=16)
    listener = Listener([port], connections, None)
    reader, writer = await asyncio.open_connection(*port.getsockname())
    writer.write(b"GET / HTTP/1.1\r\nHost: mirror.test\r\n\r\n")
    try:
        yield await begun, reader
    finally:
        writer.close()
        await writer.wait_closed()
        listener.close()
        await connections.end(1, asyncio.Event())
        await listener.ended()


async def test_who_is_cancelled_waits_for_the_thread_that_sends(file_on_disk: IO[bytes]) -> None:
    """The client leaves while a thread is about to send: the socket's descriptor stays open until it has, then goes.

    Closed sooner, its number would be the next client's, and the bytes would be sent to that one.
    """
    threads = BusyThreads()
    asyncio.get_running_loop().set_default_executor(threads)
    async with sending(file_on_disk) as (task, reader):
        await _busy(threads)
        held = _sockets()
        task.cancel()
        for _ in range(TURNS):
            await asyncio.sleep(0)
        still = _sockets()
        threads.free.set()
        assert (task.done(), still) == (False, held)
        await asyncio.wait([task])
        assert task.cancelled()
        assert _sockets() < held
        assert await reader.read(10) == b"A" * 10


async def _busy(threads: BusyThreads) -> None:
    """Wait until a thread is about to send; where /var/tmp is in memory, none ever is."""
    async with asyncio.timeout(10):
        while not threads.taken.is_set():  # noqa: ASYNC110 - it is set by a thread
            await asyncio.sleep(0.001)


def _sockets() -> int:
    """How many descriptors of this process are sockets."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return found
