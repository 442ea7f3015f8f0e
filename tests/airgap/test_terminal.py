"""What commands show to people, who sit at terminals."""

import asyncio
import os
import pty
import sys
from pathlib import Path

import pytest

from tests.airgap.command import WITHIN, succeeded
from tests.airgap.test_refused import bundle
from tests.fake.content import image
from tests.real.mirror import environment


async def shown(*arguments: str | Path, columns: int = 80) -> str:
    """Everything that `mirror ARGUMENTS` writes on a terminal."""
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
        said = bytearray()
        async with asyncio.timeout(WITHIN):
            while command.returncode is None:
                await asyncio.sleep(0.01)
                said += _read(master)
        return bytes(said + _read(master)).decode()
    finally:
        os.close(terminal)
        os.close(master)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except BlockingIOError:
        return b""


async def test_a_size_that_is_not_known_is_not_made_up(tmp_path: Path) -> None:
    """The upstream is down: nothing is known of the image, and there is a bar for it all the same."""
    hub = ("--upstream", "docker.io=http://127.0.0.1:9")
    said = await shown("warm", "team/app:1", "--cache", tmp_path / "cache", *hub)

    assert "docker.io/team/app:1" in said
    assert "0/?" in said
    assert "0/100" not in said


@pytest.mark.parametrize(("columns", "header"), [(200, "SHARED"), (80, "SIZE"), (60, "SIZE"), (30, "SIZE")])
async def test_names_are_readable_on_a_narrow_terminal(tmp_path: Path, columns: int, header: str) -> None:
    """What can be spared goes first; a name that alone is too long goes on in the next line."""
    names = [f"docker.io/team/service-{number}:v1.2.3-bookworm" for number in range(3)]
    archive = bundle(tmp_path / "b.tar", dict.fromkeys(names, image(100)))
    await succeeded("import", archive, "--cache", tmp_path / "cache")

    said = await shown("ls", "--cache", tmp_path / "cache", columns=columns)
    lines = said.strip().splitlines()
    assert header in lines[0]
    assert all(len(line.rstrip()) <= columns for line in lines), said
    assert "…" not in said
    assert "".join(line.split()[0] for line in lines[1:]) == "".join(names), said
    assert columns == 30 or len(lines) == 1 + len(names), said
