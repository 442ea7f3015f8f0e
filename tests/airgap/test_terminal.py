"""What commands show to people, who sit at terminals."""

import asyncio
import os
import pty
import sys
from pathlib import Path

from tests.airgap.command import WITHIN
from tests.real.mirror import environment


async def shown(*arguments: str | Path) -> str:
    """Everything that `mirror ARGUMENTS` writes on a terminal."""
    master, terminal = pty.openpty()
    try:
        command = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mirror", *map(str, arguments)),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**os.environ, **environment(), "TERM": "xterm"},
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
