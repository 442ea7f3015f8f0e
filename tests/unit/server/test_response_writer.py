"""The response writer: descriptors that a thread uses stay open until the thread has finished."""

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
from mirror.server import response_writer
from mirror.server.connections import Connections
from mirror.server.framing import malformed
from mirror.server.listener import Listener
from mirror.server.response import written_response
from mirror.server.response_writer import writer_for

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

SIZE = 2**20
LOOP_ITERATIONS = 100  # enough for a cancelled task to end


class BusyThreads(ThreadPoolExecutor):
    """An executor whose thread waits for the test before it runs its function."""

    def __init__(self) -> None:
        super().__init__(max_workers=1)
        self.started = threading.Event()
        self.free = threading.Event()

    def submit(
        self, fn: Callable[_Arguments, _Result], /, *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> Future[_Result]:
        def late() -> _Result:
            self.started.set()
            self.free.wait(10)
            return fn(*args, **kwargs)

        return super().submit(late)


class WholeFile:
    """Content that is completely readable."""

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
def file_on_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[IO[bytes]]:
    """Yield a file that the writer takes for one that is not in the page cache, so that a thread has to send it."""
    monkeypatch.setattr(response_writer, "_is_in_memory", lambda file, offset: False)
    with tempfile.TemporaryFile() as file:
        file.write(b"A" * SIZE)
        file.flush()
        yield file


@contextlib.asynccontextmanager
async def sending(file: IO[bytes]) -> AsyncIterator[tuple[asyncio.Task[None], asyncio.StreamReader]]:
    """Yield the task that sends a file with a response writer, and the client's end of its connection."""
    started: asyncio.Future[asyncio.Task[None]] = asyncio.get_running_loop().create_future()

    async def send(request: web.BaseRequest) -> None:
        async with writer_for(request) as writer:
            await writer.send_file(WholeFile(file), 0, SIZE)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        task = asyncio.create_task(send(request))
        started.set_result(task)
        await asyncio.wait([task])
        return written_response(keep_alive=False)

    port = socket.create_server(("127.0.0.1", 0))
    port.setblocking(False)
    connections = Connections(handle, malformed, LimitSettings(), limit=16)
    listener = Listener([port], connections, None)
    reader, writer = await asyncio.open_connection(*port.getsockname())
    writer.write(b"GET / HTTP/1.1\r\nHost: mirror.test\r\n\r\n")
    try:
        yield await started, reader
    finally:
        writer.close()
        await writer.wait_closed()
        listener.close()
        await connections.shut_down(1, asyncio.Event())
        await listener.wait_closed()


async def test_cancelled_writer_waits_for_its_thread(file_on_disk: IO[bytes]) -> None:
    """A client disconnects while a thread is about to send: the socket's descriptor stays open until the thread ends.

    If it were closed earlier, another client could get the same descriptor number, and the blob's bytes.
    """
    threads = BusyThreads()
    asyncio.get_running_loop().set_default_executor(threads)
    async with sending(file_on_disk) as (task, reader):
        await _thread_started(threads)
        before = _sockets()
        task.cancel()
        for _ in range(LOOP_ITERATIONS):
            await asyncio.sleep(0)
        after = _sockets()
        threads.free.set()
        assert (task.done(), after) == (False, before)
        await asyncio.wait([task])
        assert task.cancelled()
        assert _sockets() < before
        assert await reader.read(10) == b"A" * 10


async def _thread_started(threads: BusyThreads) -> None:
    """Wait until a thread is about to send."""
    async with asyncio.timeout(10):
        while not threads.started.is_set():  # noqa: ASYNC110 - a thread sets it
            await asyncio.sleep(0.001)


def _sockets() -> int:
    """Return how many descriptors of this process are sockets."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return found
