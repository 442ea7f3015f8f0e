"""Pulls: run the benchmark client and read its report."""

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

GRACE = 30.0  # seconds for a client to exit after its own limit


@dataclass(frozen=True, slots=True)
class Cost:
    """Report of an order, with its cost to the server."""

    report: Report
    gibibytes: float
    server_cpu: float  # seconds

    @property
    def throughput(self) -> float:
        """Throughput in GiB/s."""
        return self.gibibytes / self.report.seconds

    @property
    def cpu_per_gibibyte(self) -> float:
        """Seconds of the server's CPU per GiB."""
        return self.server_cpu / self.gibibytes


def pull(order: Order) -> Report:
    """Run *order* in a separate process.

    Raises:
        BenchError: if the client itself fails. Failed pulls are in the report.
    """
    with _client(order) as process:
        try:
            output, errors = process.communicate(timeout=order.limit + GRACE)
        except subprocess.TimeoutExpired as error:
            raise BenchError("the client did not exit") from error
    if process.returncode:
        raise BenchError(f"the client failed: {errors.decode(errors='replace').strip().splitlines()[-1]}")
    report = json.loads(output)
    return Report(report["seconds"], report["cpu_seconds"], [Pull(**entry) for entry in report["pulls"]])


def pull_together(order: Order, processes: int) -> Report:
    """Like `pull`, but divide the connections among several client processes, so that the client is not the limit.

    Times in the report are relative to the start of each process; the starts are some milliseconds apart.
    """
    share = replace(order, connections=order.connections // processes)
    with ThreadPoolExecutor(processes) as executor:
        reports = list(executor.map(pull, [share] * processes))
    return Report(
        max(report.seconds for report in reports),
        sum(report.cpu_seconds for report in reports),
        [entry for report in reports for entry in report.pulls],
    )


def complete(order: Order, *, whole: bool = True, processes: int = 1) -> Report:
    """Like `pull`, but require that no response failed and, with *whole*, that all bodies are complete.

    Raises:
        BenchError: if a response is not 200, is truncated, or with *whole* is incomplete at the time limit.
    """
    report = pull_together(order, processes)
    for entry in report.pulls:
        if entry.failure:
            raise BenchError(f"{order.path[:40]}: {entry.failure}")
        if whole and entry.end is None:
            raise BenchError(f"{order.path[:40]}: {entry.received} bytes of {entry.size} after {order.limit:.0f} s")
    return report


def costed(server: Server, order: Order, *, whole: bool = True, processes: int = 1) -> Cost:
    """Like `complete`, but also measure the server's CPU time."""
    before = server.cpu_seconds()
    report = complete(order, whole=whole, processes=processes)
    used = server.cpu_seconds() - before
    received = sum(entry.received for entry in report.pulls)
    if not received:
        raise BenchError(f"{order.path[:40]}: no byte received after {report.seconds:.1f} s")
    return Cost(report, received / 2**30, used)


def check(server: Server, blob: Blob) -> None:
    """Pull the blob once and verify its digest.

    Raises:
        BenchError: if the digest does not match.
    """
    report = complete(Order(server.port, blob.path, check=True))
    if f"sha256:{report.pulls[0].sha256}" != blob.digest:
        raise BenchError(f"received content with digest sha256:{report.pulls[0].sha256} for {blob.digest}")


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
