"""A blocked standard error (a full pipe without a reader) blocks neither responses nor the shutdown."""

import asyncio
import contextlib
import fcntl
import os
import select
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

from tests.http.client import Client
from tests.real.mirror import COMMAND, environment, events_in

PIPE = 4096  # bytes, the smallest size of a pipe
ENDS_WITHIN = 10.0  # seconds


class MirrorWithUnreadLog:
    """A mirror whose standard error is a pipe that is read up to the first event only."""

    def __init__(self, child: asyncio.subprocess.Process, log: int, url: str) -> None:
        self.child = child
        self._log = log
        self.url = url

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, directory: Path) -> AsyncIterator["MirrorWithUnreadLog"]:
        """Run a mirror."""
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE)
        child = await asyncio.create_subprocess_exec(
            *COMMAND,
            *("--listen", "127.0.0.1:0", "--cache", str(directory), "--log-format", "json"),
            *("--upstream", "r.test=http://127.0.0.1:9"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=writing,
            env={**os.environ, **environment()},
        )
        try:
            yield cls(child, writing, await asyncio.wait_for(asyncio.to_thread(_listening, reading), 30))
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()
            os.close(reading)
            os.close(writing)

    @property
    def is_full(self) -> bool:
        """Whether a write to the pipe would block."""
        return not select.select([], [self._log], [], 0)[1]


def _listening(log: int) -> str:
    """Read the log until the address of the listener is in it."""
    said = b""
    while not (found := [event for event in events_in(said.decode()) if event["event"] == "listening"]):
        said += os.read(log, PIPE)
    return str(found[0]["url"])


async def test_sigterm_ends_a_mirror_with_a_blocked_log(tmp_path: Path) -> None:
    """Standard error is a full pipe: pulls are answered all the same, and SIGTERM ends the mirror."""
    async with MirrorWithUnreadLog.running(tmp_path) as mirror, Client.of(mirror.url) as client:
        async with asyncio.timeout(ENDS_WITHIN):
            while not mirror.is_full:
                assert (await client.get("/v2/r.test/team/NO/manifests/v1")).status == 400
        for _ in range(50):
            assert (await client.get("/v2/r.test/team/NO/manifests/v1")).status == 400
        mirror.child.send_signal(signal.SIGTERM)
        async with asyncio.timeout(ENDS_WITHIN):
            assert await mirror.child.wait() == 0
