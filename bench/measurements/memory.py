"""Memory: resident memory of the server while many slow clients stream one large blob."""

import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from bench import pulls
from bench.client import Order
from bench.servers import BenchError, Server
from bench.stage import Stage
from bench.table import Row, Target

CLIENTS = 200
PACE = 1 << 20  # bytes a second, each
SECONDS = 8.0
_INTERVAL = 0.1  # seconds between two samples
_MIB = 2**20


def measure(stage: Stage) -> list[Row]:
    """Measure with the blob in the cache, and with an empty cache. A single round: memory use varies little."""
    size = f"{stage.content.large.size / 2**30:g} GiB"
    rows = []
    for state in ("warm", "cold"):
        label = f"{CLIENTS} slow clients, {state} {size} blob"
        peak = Row(label, "highest resident MiB (VmHWM)", 1, (Target("<=", 150, digits=1),))
        typical = Row(label, "resident MiB (VmRSS, median)", 1)
        served = Row(label, f"clients with bytes after {SECONDS:.0f} s", 0)
        rows += [peak, typical, served]
        for contestant in stage.contestants:
            with stage.forgiving(contestant, label):
                start = stage.warm if state == "warm" else stage.cold
                with start(contestant) as server:
                    highest, median, count = _stream(server, stage)
                peak.add(contestant.name, 0, highest)
                typical.add(contestant.name, 0, median)
                served.add(contestant.name, 0, count)
                stage.say(
                    f"{label}, {contestant.name}: peak {highest:.1f} MiB, median {median:.1f} MiB, {count} served"
                )
    return rows


def _stream(server: Server, stage: Stage) -> tuple[float, float, int]:
    with _sampled(server) as samples:
        order = Order(server.port, stage.content.large.path, CLIENTS, pace=PACE, limit=SECONDS)
        report = pulls.pull(order)
        peak = server.memory().peak / _MIB
    failures = [pull.failure for pull in report.pulls if pull.failure]
    if failures:
        raise BenchError(f"{len(failures)} of {CLIENTS} pulls failed: {failures[0]}")
    return peak, statistics.median(samples) / _MIB, sum(pull.received > 0 for pull in report.pulls)


@contextmanager
def _sampled(server: Server) -> Iterator[list[int]]:
    """Sample the resident bytes of the server repeatedly while the context lasts."""
    samples = [server.memory().resident]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(_INTERVAL):
            samples.append(server.memory().resident)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield samples
    finally:
        done.set()
        sampler.join()
