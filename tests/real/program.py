"""A program of this machine: started with a log of its own, waited for with a bound, ended by its process id."""

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
_STOPS_WITHIN = 0.05  # seconds until all threads of a program stand still; one may be waiting for the disk


@dataclass(frozen=True, slots=True)
class Ran:
    """A program that has come to its end."""

    argv: tuple[str, ...]
    code: int
    output: str
    errors: str

    def __str__(self) -> str:
        return f"{' '.join(self.argv)}\nexit code {self.code}\n--- stdout\n{self.output}\n--- stderr\n{self.errors}"


async def ran(*argv: str, env: Mapping[str, str] | None = None, within: float = 60.0) -> Ran:
    """Run a program to its end, whatever the end; after *within* seconds it is killed and the test fails."""
    child = await asyncio.create_subprocess_exec(
        *argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(env or {})},
        start_new_session=True,
    )
    talk = asyncio.ensure_future(child.communicate())
    done, _ = await asyncio.wait({talk}, timeout=within)
    if not done:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    output, errors = await talk
    result = Ran(argv, child.returncode or 0, output.decode(errors="replace"), errors.decode(errors="replace"))
    assert done, f"not finished after {within} s: {result}"
    return result


async def succeeded(*argv: str, env: Mapping[str, str] | None = None, within: float = 60.0) -> str:
    """The standard output of a program that has to exit with 0."""
    result = await ran(*argv, env=env, within=within)
    assert result.code == 0, str(result)
    return result.output


async def eventually(condition: Callable[[], Awaitable[bool]], *, within: float = 10.0) -> None:
    """Wait until *condition* holds; the test fails when it doesn't after *within* seconds."""
    async with asyncio.timeout(within):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.05)


class Program:
    """A program that runs until it is stopped, and everything that it said."""

    def __init__(self, child: asyncio.subprocess.Process, argv: Sequence[str], log: Path) -> None:
        self._child = child
        self._argv = tuple(argv)
        self.log = log

    @classmethod
    async def start(cls, argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> "Program":
        """Both output streams are appended to *log*, so that a restarted program continues its own."""
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
        """Wait until *ready()*; fails with the log when the program ends first or the time is up."""
        try:
            async with asyncio.timeout(within):
                while not ready():
                    assert self.running, f"ended with {self._child.returncode}: {self}"
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"not ready after {within} s: {self}") from None

    def signal(self, number: signal.Signals) -> None:
        """Nothing happens to a program that has ended."""
        if self.running:
            self._child.send_signal(number)

    @contextmanager
    def standing_still(self) -> Iterator[bool]:
        """The program does nothing while the block lasts, so that what is seen of its files is all of one moment.

        False where it has ended, or would not stand still at once.
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
        """The exit code of a program that ends by itself or after a signal."""
        try:
            async with asyncio.timeout(within):
                return await self._child.wait()
        except TimeoutError:
            raise AssertionError(f"still running after {within} s: {self}") from None

    async def stop(self) -> int:
        """SIGTERM, then the exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> None:
        """The end of a program that nobody waits for any more, and of its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._child.wait()

    def __str__(self) -> str:
        return f"{' '.join(self._argv)}\n--- log\n{self.said()[-6000:]}"


def _states(pid: int) -> set[str]:
    """In what states the threads of a process are (proc(5)); none of one that is gone."""
    found = set()
    with suppress(FileNotFoundError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(FileNotFoundError, ProcessLookupError):
                found.add(Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()[0])
    return found


@asynccontextmanager
async def running(argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> AsyncIterator[Program]:
    """A program as long as the block lasts."""
    program = await Program.start(argv, log=log, env=env)
    try:
        yield program
        if program.running:
            await program.stop()
    finally:
        await program.kill()


@contextmanager
def short_directory(name: str) -> Iterator[Path]:
    """A fresh directory whose path leaves room for socket names (108 bytes), gone afterwards with all mounts in it."""
    path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/tmp"))
    try:
        yield path
    finally:
        _unmount_below(path)
        shutil.rmtree(path, ignore_errors=True)


def _unmount_below(path: Path) -> None:
    """Engines leave mounts behind; what is mounted must not be reached by the removal of the directory."""
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in sorted((point for point in mounted if point.startswith(f"{path}/")), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
