"""Run the mirror's commands in separate processes and return their exit status and output."""

import asyncio
import atexit
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.real.mirror import environment

WITHIN = 60.0  # seconds
_STARTING = threading.Lock()
LAUNCHER = Path(__file__).with_name("launcher.py")


@dataclass(frozen=True, slots=True)
class Result:
    """The exit status and the output of a command."""

    status: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"{self.status}\n{self.out}\n{self.err}"


async def mirror_command(*arguments: str | Path, **variables: str) -> Result:
    """Run `mirror ARGUMENTS` to its end, with these environment variables."""
    async with running_command(*arguments, **variables) as program:
        return await ended(program)


async def interrupted(program: asyncio.subprocess.Process) -> Result:
    """Send SIGINT (Ctrl-C) to a command and return its result."""
    program.send_signal(signal.SIGINT)
    return await ended(program)


async def ended(program: asyncio.subprocess.Process) -> Result:
    """Wait until a command ends and return its result."""
    async with asyncio.timeout(WITHIN):
        out, err = await program.communicate()
    return Result(program.returncode or 0, out.decode(), err.decode())


@asynccontextmanager
async def running_command(*arguments: str | Path, **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start `mirror ARGUMENTS`; kill the command if it is still running at the end of the block."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(LAUNCHER), str(await asyncio.to_thread(server_socket)), *map(str, arguments)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment(), **variables},
    )
    try:
        yield program
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()


def server_socket() -> Path:
    """Return the socket of the command server, which is started once and lasts as long as this process."""
    with _STARTING:
        return _started()


@cache
def _started() -> Path:
    directory = tempfile.TemporaryDirectory(prefix="command-server-", dir="/tmp")
    path = Path(directory.name) / "socket"
    argv = [sys.executable, "-m", "tests.airgap.command_server", str(path)]
    program = subprocess.Popen(argv, env={**os.environ, **environment()}, start_new_session=True)

    def end() -> None:
        program.kill()
        program.wait()
        directory.cleanup()

    atexit.register(end)
    deadline = time.monotonic() + WITHIN
    while not path.exists():
        assert program.poll() is None, "the command server has ended"
        assert time.monotonic() < deadline, "the command server does not start"
        time.sleep(0.01)
    return path


async def succeeded(*arguments: str | Path, **variables: str) -> Result:
    """Run `mirror ARGUMENTS` to its end and assert that it succeeds."""
    result = await mirror_command(*arguments, **variables)
    assert result.status == 0, result
    return result
