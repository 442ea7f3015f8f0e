"""A server process: started, awaited, watched, stopped."""

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
STOP_LIMIT = 40.0  # seconds; longer than the mirror waits for running pulls
_POLL = 0.002  # seconds


class BenchError(Exception):
    """A server or a client did not do what a measurement needs; the table says so and goes on."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers."""

    port: int
    pid: int
    log: Path
    start_seconds: float  # from the start of the process until it was ready
    host: str = LOOPBACK

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.host}:{self.port}"

    def cpu_seconds(self) -> float:
        """Of the process and its children, so far."""
        return machine.cpu_seconds(self.pid)

    def memory(self) -> machine.Memory:
        """Of the process and its children."""
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
    """Runs *command*, its output in *log*, from the moment that *ready* (given the log) returns its port.

    Raises:
        BenchError: the program ends early or is not ready within START_LIMIT.
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
        port = _port(process, command[0], log, ready)
        yield Server(port, process.pid, log, time.monotonic() - began, host)
    finally:
        _stop(process)


def free_port() -> int:
    """A port of the loopback address on which nobody listens at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int, host: str = LOOPBACK) -> Callable[[Path], int | None]:
    """Ready when `GET /v2/` there is answered with 200."""

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
    """The path of an installed program; Debian puts servers in /usr/sbin, which is not on everyone's PATH.

    Raises:
        BenchError: it is not installed.
    """
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        raise BenchError(f"{name} is not installed")
    return path


def _port(process: subprocess.Popen[bytes], name: str, log: Path, ready: Callable[[Path], int | None]) -> int:
    limit = time.monotonic() + START_LIMIT
    while time.monotonic() < limit:
        if process.poll() is not None:
            raise BenchError(f"{name} ended with {process.returncode}: {_complaint(log)}")
        port = ready(log)
        if port is not None:
            return port
        time.sleep(_POLL)
    raise BenchError(f"{name} was not ready after {START_LIMIT:.0f} s: {_complaint(log)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _complaint(log: Path) -> str:
    """The line of a log that says best why a server ended: the first with an error in it, or the last."""
    lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    return next((line for line in lines if "error" in line.lower()), lines[-1])
