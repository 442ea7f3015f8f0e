"""The mirror's commands, run as people run them."""

import asyncio
import os
import sys
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
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mirror", *map(str, arguments)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment()},
    )
    try:
        async with asyncio.timeout(WITHIN):
            out, err = await program.communicate()
    except BaseException:
        program.kill()
        await program.wait()
        raise
    return Said(program.returncode or 0, out.decode(), err.decode())


async def succeeded(*arguments: str | Path) -> Said:
    """The same, where it has to succeed."""
    said = await mirror_command(*arguments)
    assert said.status == 0, said
    return said
