"""The mirror's commands, run as people run them."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.real.mirror import environment

WITHIN = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Said:
    """What a command came to."""

    status: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"{self.status}\n{self.out}\n{self.err}"


async def mirror_command(*arguments: str | Path) -> Said:
    """`mirror ARGUMENTS`, to its end."""
    async with going_on(*arguments) as program:
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
async def going_on(*arguments: str | Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """`mirror ARGUMENTS`, as long as the block lasts, at most."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mirror", *map(str, arguments)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment()},
    )
    try:
        yield program
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()


async def succeeded(*arguments: str | Path) -> Said:
    """The same, where it has to succeed."""
    said = await mirror_command(*arguments)
    assert said.status == 0, said
    return said
