"""Starts the pulling client and reads its report."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from bench.client import Order, Pull, Report
from bench.content import Blob
from bench.servers import BenchError, Server

GRACE = 30.0  # seconds that a client may need beyond its own limit


@dataclass(frozen=True, slots=True)
class Cost:
    """A finished order and what it cost the server."""

    report: Report
    gibibytes: float
    server_cpu: float  # seconds

    @property
    def throughput(self) -> float:
        """GiB/s."""
        return self.gibibytes / self.report.seconds

    @property
    def cpu_per_gibibyte(self) -> float:
        """Seconds of the server's CPU."""
        return self.server_cpu / self.gibibytes


def pull(order: Order) -> Report:
    """Carries out *order* in a process of its own.

    Raises:
        BenchError: the client itself failed; pulls that failed are in the report.
    """
    with _client(order) as process:
        try:
            output, errors = process.communicate(timeout=order.limit + GRACE)
        except subprocess.TimeoutExpired as error:
            raise BenchError("the client did not end") from error
    if process.returncode:
        raise BenchError(f"the client failed: {errors.decode(errors='replace').strip().splitlines()[-1]}")
    report = json.loads(output)
    return Report(report["seconds"], report["cpu_seconds"], [Pull(**entry) for entry in report["pulls"]])


def pull_together(order: Order, processes: int) -> Report:
    """Like `pull`, the connections shared out to several client processes, so that not the client is the limit.

    Times in the report are each process's own: they begin some milliseconds apart.
    """
    share = replace(order, connections=order.connections // processes)
    with ThreadPoolExecutor(processes) as starters:
        reports = list(starters.map(pull, [share] * processes))
    return Report(
        max(report.seconds for report in reports),
        sum(report.cpu_seconds for report in reports),
        [entry for report in reports for entry in report.pulls],
    )


def complete(order: Order, *, whole: bool = True, processes: int = 1) -> Report:
    """Like `pull`, but no answer may have failed; and if *whole*, everything must have arrived.

    Raises:
        BenchError: an answer was not 200, was cut, or did not end within the limit.
    """
    report = pull_together(order, processes)
    for entry in report.pulls:
        if entry.failure:
            raise BenchError(f"{order.path[:40]}: {entry.failure}")
        if whole and entry.end is None:
            raise BenchError(f"{order.path[:40]}: {entry.received} bytes of {entry.size} after {order.limit:.0f} s")
    return report


def costed(server: Server, order: Order, *, whole: bool = True, processes: int = 1) -> Cost:
    """Like `complete`, with the server's CPU time."""
    before = server.cpu_seconds()
    report = complete(order, whole=whole, processes=processes)
    used = server.cpu_seconds() - before
    received = sum(entry.received for entry in report.pulls)
    if not received:
        raise BenchError(f"{order.path[:40]}: not a byte after {report.seconds:.1f} s")
    return Cost(report, received / 2**30, used)


def check(server: Server, blob: Blob) -> None:
    """Pulls the blob once and hashes what comes.

    Raises:
        BenchError: it is not the blob.
    """
    report = complete(Order(server.port, blob.path, check=True))
    if f"sha256:{report.pulls[0].sha256}" != blob.digest:
        raise BenchError(f"sent {report.pulls[0].sha256} as {blob.digest}")


@contextmanager
def _client(order: Order) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.client", json.dumps(asdict(order))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
