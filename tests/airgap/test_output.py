"""Commands whose standard output is a full disk, a closed descriptor or a closed pipe."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.airgap.command import WITHIN, Result, succeeded
from tests.airgap.test_refused_images import bundle
from tests.fake.content import image
from tests.real.mirror import environment

COMMANDS = [("ls",), ("stats",), ("client-config", "k3s"), ("--help",)]
FULL, CLOSED, READ = ">/dev/full", ">&-", "| true"


async def redirected(to: str, *arguments: str | Path, unbuffered: bool = False) -> Result:
    """Run a command with standard output redirected to *to*; return its status and standard error."""
    line = f'"$@" {to}; exit "${{PIPESTATUS[0]}}"'
    program = await asyncio.create_subprocess_exec(
        *("bash", "-c", line, "bash", sys.executable, "-m", "mirror", *map(str, arguments)),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment(), "PYTHONUNBUFFERED": "1" if unbuffered else ""},
    )
    async with asyncio.timeout(WITHIN):
        _, err = await program.communicate()
    return Result(program.returncode or 0, "", err.decode())


@pytest.mark.parametrize("to", [FULL, CLOSED, READ], ids=["full", "closed", "read"])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
async def test_unwritable_standard_output_is_reported(tmp_path: Path, command: tuple[str, ...], to: str) -> None:
    """A failed write is one line on standard error with status 2; a reader that closes the pipe early is no error."""
    cache = ("--cache", tmp_path / "cache") if command[0] in {"ls", "stats"} else ()
    await succeeded("import", bundle(tmp_path / "b.tar", {"team/app:v1": image(100)}), "--cache", tmp_path / "cache")

    both = await asyncio.gather(
        *(redirected(to, *command, *cache, unbuffered=unbuffered) for unbuffered in (False, True))
    )
    for ended in both:
        lines = [line for line in ended.err.splitlines() if not line.startswith("#")]
        if to == READ:
            assert not lines, ended
            assert ended.status in {0, 1}
        else:
            assert len(lines) == 1, ended
            assert lines[0].startswith("mirror: standard output can't be written: ")
            assert ended.status == 2
