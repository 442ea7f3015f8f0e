"""Server processes: start, wait until ready, measure CPU and memory, stop."""

import http.client
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import machine

LOOPBACK = "127.0.0.1"
START_LIMIT = 60.0  # seconds
STOP_LIMIT = 40.0  # seconds; longer than the mirror's graceful shutdown
_POLL = 0.002  # seconds


class BenchError(Exception):
    """Failure of a server or a client in a measurement. It is noted below the table, and the run continues."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server that is ready."""

    port: int
    pid: int
    log: Path
    start_seconds: float  # from the start of the process until it was ready
    host: str = LOOPBACK

    @property
    def url(self) -> str:
        """Base URL of the server."""
        return f"http://{self.host}:{self.port}"

    def cpu_seconds(self) -> float:
        """Return the CPU time of the process and its descendants so far."""
        return machine.cpu_seconds(self.pid)

    def memory(self) -> machine.Memory:
        """Return the memory use of the process and its descendants."""
        return machine.memory(self.pid)


@contextmanager
def running(
    command: Sequence[str],
    log: Path,
    ready: Callable[[Path], int | None],
    *,
    environment: Mapping[str, str] | None = None,
    host: str = LOOPBACK,
) -> Iterator[Server]:
    """Run *command* with its output in *log*, and yield the server once *ready*, called with the log, returns its port.

    Raises:
        BenchError: if the program exits early or is not ready within START_LIMIT.
    """
    with log.open("wb") as output:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
        )
    try:
        port = _await_port(process, command[0], log, ready)
        yield Server(port, process.pid, log, time.monotonic() - began, host)
    finally:
        _stop(process)


def free_port() -> int:
    """Return a free port of the loopback address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int, host: str = LOOPBACK) -> Callable[[Path], int | None]:
    """Return a readiness check: the server is ready when it answers `GET /v2/` with 200."""

    def ready(_log: Path) -> int | None:
        connection = http.client.HTTPConnection(host, port, timeout=5)
        try:
            connection.request("GET", "/v2/")
            return port if connection.getresponse().status == http.HTTPStatus.OK else None
        except OSError:
            return None
        finally:
            connection.close()

    return ready


def program(name: str) -> str:
    """Return the path of an installed program, also from /usr/sbin, where Debian installs servers.

    Raises:
        BenchError: if it is not installed.
    """
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        raise BenchError(f"{name} is not installed")
    return path


def _await_port(process: subprocess.Popen[bytes], name: str, log: Path, ready: Callable[[Path], int | None]) -> int:
    limit = time.monotonic() + START_LIMIT
    while time.monotonic() < limit:
        if process.poll() is not None:
            raise BenchError(f"{name} exited with {process.returncode}: {_error_line(log)}")
        port = ready(log)
        if port is not None:
            return port
        time.sleep(_POLL)
    raise BenchError(f"{name} was not ready after {START_LIMIT:.0f} s: {_error_line(log)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _error_line(log: Path) -> str:
    """Return the line of a log that best explains why a server exited: the first with an error, else the last."""
    lines = log.read_text(errors="replace").strip().splitlines() or ["its log is empty"]
    return next((line for line in lines if "error" in line.lower()), lines[-1])
