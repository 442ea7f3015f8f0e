"""Command output on a terminal: progress bars and tables."""

import asyncio
import os
import pty
import sys
from pathlib import Path

import pytest

from tests.airgap.command import WITHIN, succeeded
from tests.airgap.test_refused_images import bundle
from tests.fake.content import image
from tests.real.mirror import environment


async def shown(*arguments: str | Path, columns: int = 80) -> str:
    """Return everything that `mirror ARGUMENTS` writes to a terminal."""
    master, terminal = pty.openpty()
    try:
        command = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mirror", *map(str, arguments)),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**os.environ, **environment(), "TERM": "xterm", "COLUMNS": str(columns)},
        )
        os.set_blocking(master, False)
        output = bytearray()
        async with asyncio.timeout(WITHIN):
            while command.returncode is None:
                await asyncio.sleep(0.01)
                output += _read(master)
        return bytes(output + _read(master)).decode()
    finally:
        os.close(terminal)
        os.close(master)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except BlockingIOError:
        return b""


async def test_progress_bar_without_known_size(tmp_path: Path) -> None:
    """The upstream is down, so the size is unknown: the progress bar shows "?" as the total."""
    hub = ("--upstream", "docker.io=http://127.0.0.1:9")
    output = await shown("warm", "team/app:1", "--cache", tmp_path / "cache", *hub)

    assert "docker.io/team/app:1" in output
    assert "0/?" in output
    assert "0/100" not in output


@pytest.mark.parametrize(("columns", "header"), [(200, "SHARED"), (80, "SIZE"), (60, "SIZE"), (30, "SIZE")])
async def test_names_are_readable_on_a_narrow_terminal(tmp_path: Path, columns: int, header: str) -> None:
    """The table drops optional columns first; a name longer than the line is wrapped."""
    names = [f"docker.io/team/service-{number}:v1.2.3-bookworm" for number in range(3)]
    archive = bundle(tmp_path / "b.tar", dict.fromkeys(names, image(100)))
    await succeeded("import", archive, "--cache", tmp_path / "cache")

    output = await shown("ls", "--cache", tmp_path / "cache", columns=columns)
    lines = output.strip().splitlines()
    assert header in lines[0]
    assert all(len(line.rstrip()) <= columns for line in lines), output
    assert "…" not in output
    assert "".join(line.split()[0] for line in lines[1:]) == "".join(names), output
    assert columns == 30 or len(lines) == 1 + len(names), output
