"""The mirror's commands, run as people run them."""

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
class Said:
    """What a command came to."""

    status: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"{self.status}\n{self.out}\n{self.err}"


async def mirror_command(*arguments: str | Path, **variables: str) -> Said:
    """`mirror ARGUMENTS`, to its end, with these variables."""
    async with going_on(*arguments, **variables) as program:
        return await ended(program)


async def interrupted(program: asyncio.subprocess.Process) -> Said:
    """What a command came to that somebody stopped with Ctrl-C."""
    program.send_signal(signal.SIGINT)
    return await ended(program)


async def ended(program: asyncio.subprocess.Process) -> Said:
    """What a command came to that ends by itself."""
    async with asyncio.timeout(WITHIN):
        out, err = await program.communicate()
    return Said(program.returncode or 0, out.decode(), err.decode())


@asynccontextmanager
async def going_on(*arguments: str | Path, **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`mirror ARGUMENTS`, as long as the block lasts, at most."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(LAUNCHER), str(await asyncio.to_thread(nursery)), *map(str, arguments)),
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


def nursery() -> Path:
    """The socket of the one nursery, which lasts as long as this process."""
    with _STARTING:
        return _started()


@cache
def _started() -> Path:
    directory = tempfile.TemporaryDirectory(prefix="nursery-", dir="/tmp")
    path = Path(directory.name) / "socket"
    argv = [sys.executable, "-m", "tests.airgap.nursery", str(path)]
    program = subprocess.Popen(argv, env={**os.environ, **environment()}, start_new_session=True)

    def end() -> None:
        program.kill()
        program.wait()
        directory.cleanup()

    atexit.register(end)
    deadline = time.monotonic() + WITHIN
    while not path.exists():
        assert program.poll() is None, "the nursery has ended"
        assert time.monotonic() < deadline, "the nursery does not begin"
        time.sleep(0.01)
    return path


async def succeeded(*arguments: str | Path, **variables: str) -> Said:
    """The same, where it has to succeed."""
    said = await mirror_command(*arguments, **variables)
    assert said.status == 0, said
    return said
