"""Warm manifest: requests a second and latency of a cached manifest, measured with wrk."""

import re
import subprocess
from dataclasses import dataclass

from bench import servers
from bench.client import ACCEPT, Order
from bench.contestants import Contestant
from bench.pulls import complete
from bench.servers import BenchError, Server
from bench.stage import Stage
from bench.table import Row, Target

CONNECTIONS = 32
SECONDS = 3
WARM_UP_SECONDS = 1
_TARGETS = {
    "tag": (Target(">=", 20, "docker-registry", 1), Target(">=", 0.7, "drayage")),
    "digest": (Target(">=", 4, "docker-registry", 1), Target(">=", 0.7, "drayage")),
}
_SCALE = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True, slots=True)
class Load:
    """Result of a run of wrk."""

    rate: float  # requests a second
    median: float  # milliseconds
    p99: float  # milliseconds


def measure(stage: Stage) -> list[Row]:
    """Measure requests by tag and by digest."""
    rows = []
    with stage.all_warm("warm manifest") as running:
        for reference, path in (("tag", stage.content.by_tag), ("digest", stage.content.by_digest)):
            label = f"warm manifest by {reference}, {CONNECTIONS} connections"
            rate = Row(label, "requests/s", 0, _TARGETS[reference])
            cost = Row(label, "server CPU µs/request", 1)
            median, p99 = Row(label, "p50 ms", 2), Row(label, "p99 ms", 2)
            rows += [rate, cost, median, p99]

            def act(
                contestant: Contestant,
                turn: int,
                *,
                path: str = path,
                into: tuple[Row, Row, Row, Row] = (rate, cost, median, p99),
            ) -> str:
                server = running[contestant.name]
                complete(Order(server.port, path))
                load_on(server, path, WARM_UP_SECONDS)
                before = server.cpu_seconds()
                load = load_on(server, path, SECONDS)
                used = server.cpu_seconds() - before
                figures = (load.rate, used / (load.rate * SECONDS) * 1e6, load.median, load.p99)
                for row, figure in zip(into, figures, strict=True):
                    row.add(contestant.name, turn, figure)
                return f"{load.rate:,.0f}/s, p50 {load.median:.2f} ms, p99 {load.p99:.2f} ms"

            stage.take_turns(label, act, among=running)
    return rows


def load_on(server: Server, path: str, seconds: int) -> Load:
    """Run wrk with one thread against *path*.

    Raises:
        BenchError: if wrk is not installed, or a response was an error.
    """
    command = [
        servers.program("wrk"),
        *("-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency"),
        *("-H", f"Accept: {ACCEPT}"),
        f"{server.url}{path}",
    ]
    report = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30).stdout
    failed = re.search(r"Non-2xx or 3xx responses: \d+|Socket errors: .*", report)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", report)
    if failed or not rate:
        raise BenchError(f"wrk: {failed[0] if failed else report.strip() or 'no report'}")
    return Load(float(rate[1]), _percentile(report, 50), _percentile(report, 99))


def _percentile(report: str, percent: int) -> float:
    found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s)$", report, re.MULTILINE)
    if not found:
        raise BenchError(f"wrk reported no {percent}th percentile")
    return float(found[1]) * _SCALE[found[2]]
