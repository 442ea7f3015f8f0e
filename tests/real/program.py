"""Run a program with a log and a time limit, and stop it by its process id."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

STARTS_WITHIN = 30.0  # seconds until a program has to be ready
ENDS_WITHIN = 30.0  # seconds between a signal and the end
_STOPS_WITHIN = 0.05  # seconds until all threads of a program have stopped; one may be waiting for the disk


@dataclass(frozen=True, slots=True)
class Ran:
    """The exit status and the output of a program."""

    argv: tuple[str, ...]
    code: int
    output: str
    errors: str

    def __str__(self) -> str:
        return f"{' '.join(self.argv)}\nexit code {self.code}\n--- stdout\n{self.output}\n--- stderr\n{self.errors}"


async def ran(*argv: str, env: Mapping[str, str] | None = None, within: float = 60.0) -> Ran:
    """Run a program to its end, with any exit status; after *within* seconds kill it and fail."""
    child = await asyncio.create_subprocess_exec(
        *argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(env or {})},
        start_new_session=True,
    )
    communication = asyncio.ensure_future(child.communicate())
    done, _ = await asyncio.wait({communication}, timeout=within)
    if not done:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    output, errors = await communication
    result = Ran(argv, child.returncode or 0, output.decode(errors="replace"), errors.decode(errors="replace"))
    assert done, f"not finished after {within} s: {result}"
    return result


async def succeeded(*argv: str, env: Mapping[str, str] | None = None, within: float = 60.0) -> str:
    """Run a program, assert that it exits with 0, and return its standard output."""
    result = await ran(*argv, env=env, within=within)
    assert result.code == 0, str(result)
    return result.output


async def eventually(condition: Callable[[], Awaitable[bool]], *, within: float = 10.0) -> None:
    """Wait until *condition* holds; fail if it does not hold within *within* seconds."""
    async with asyncio.timeout(within):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.05)


class Program:
    """A running program and its log."""

    def __init__(self, child: asyncio.subprocess.Process, argv: Sequence[str], log: Path) -> None:
        self._child = child
        self._argv = tuple(argv)
        self.log = log

    @classmethod
    async def start(cls, argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> "Program":
        """Start a program; both output streams are appended to *log*, so a restarted program continues the same log."""
        with log.open("ab") as sink:
            child = await asyncio.create_subprocess_exec(
                *argv,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        return cls(child, argv, log)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.returncode is None

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    async def until(self, ready: Callable[[], bool], *, within: float = STARTS_WITHIN) -> None:
        """Wait until *ready()*; fail with the log if the program ends first or the time limit passes."""
        try:
            async with asyncio.timeout(within):
                while not ready():
                    assert self.running, f"ended with {self._child.returncode}: {self}"
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"not ready after {within} s: {self}") from None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; do nothing if the program has ended."""
        if self.running:
            self._child.send_signal(number)

    @contextmanager
    def standing_still(self) -> Iterator[bool]:
        """Stop the program for the duration of the block, so that its files are seen at one moment.

        Yield False if the program has ended, or did not stop in time.
        """
        self.signal(signal.SIGSTOP)
        try:
            yield self._stands_still()
        finally:
            self.signal(signal.SIGCONT)

    def _stands_still(self) -> bool:
        deadline = time.monotonic() + _STOPS_WITHIN
        while self.running and time.monotonic() < deadline:
            states = _states(self.pid)
            if states <= {"T"}:
                return bool(states)
            if states & {"Z", "X"}:
                return False
            time.sleep(0.0005)
        return False

    async def ended(self, *, within: float = ENDS_WITHIN) -> int:
        """Wait until the program ends by itself or after a signal; return its exit status."""
        try:
            async with asyncio.timeout(within):
                return await self._child.wait()
        except TimeoutError:
            raise AssertionError(f"still running after {within} s: {self}") from None

    async def stop(self) -> int:
        """Send SIGTERM, and return the exit status."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> None:
        """Kill the program and its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._child.wait()

    def __str__(self) -> str:
        return f"{' '.join(self._argv)}\n--- log\n{self.said()[-6000:]}"


def _states(pid: int) -> set[str]:
    """Return the states of a process's threads (proc(5)); none if the process has ended."""
    found = set()
    with suppress(FileNotFoundError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(FileNotFoundError, ProcessLookupError):
                found.add(Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()[0])
    return found


@asynccontextmanager
async def running(argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> AsyncIterator[Program]:
    """Run a program until the end of the block."""
    program = await Program.start(argv, log=log, env=env)
    try:
        yield program
        if program.running:
            await program.stop()
    finally:
        await program.kill()


@contextmanager
def short_directory(name: str) -> Iterator[Path]:
    """Create a directory with a path short enough for sockets (108 bytes); at the end, unmount and remove all in it."""
    path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/tmp"))
    try:
        yield path
    finally:
        _unmount_below(path)
        shutil.rmtree(path, ignore_errors=True)


def _unmount_below(path: Path) -> None:
    """Unmount what engines left below *path*, so that mounted files are not deleted with it."""
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in sorted((point for point in mounted if point.startswith(f"{path}/")), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
