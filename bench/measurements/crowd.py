"""Crowd: fifty clients request the same uncached blob at once, with the upstream's bandwidth as the bottleneck."""

from bench import pulls, upstreams
from bench.client import Order, Report
from bench.contestants import Contestant
from bench.servers import BenchError, Server
from bench.stage import Stage
from bench.table import Row, Target

CLIENTS = 50
RATE = 50 << 20  # bytes a second, total of all connections to the upstream
_COMPLETE = 0.005  # this close to a whole number of blobs, no download was in progress
PATIENCE = 3  # the time limit, as a multiple of one client's time


def measure(stage: Stage) -> list[Row]:
    """Measure each contestant twice in a round, each time with an empty cache: one client, then the crowd."""
    size = f"{stage.content.crowded.size / 2**20:g} MiB"
    label = f"{CLIENTS} clients, one cold {size} blob"
    upstream_bytes = Row(label, "bytes from upstream / its bytes", 2, (Target("<=", 1.0),))
    spread = Row(label, "first byte, last - first client, ms", 1, (Target("<=", 50, digits=1),))
    first = Row(label, "first byte of the last client, ms", 1)
    time = Row(label, "all done / one client's time", 2, (Target("<=", 1.2),))

    def act(contestant: Contestant, turn: int) -> str:
        with upstreams.narrow(stage.content, stage.folder, rate=RATE) as upstream:
            with stage.cold(contestant, upstream) as server:
                stage.warm_memory_for(stage.content.crowded)
                alone = pulls.complete(Order(server.port, stage.content.crowded.path)).seconds
            before = upstreams.sent(upstream)
            with stage.cold(contestant, upstream) as server:
                stage.warm_memory_for(stage.content.crowded)
                report = _crowd(server, stage, limit=PATIENCE * alone)
                fetched = (upstreams.sent(upstream) - before) / stage.content.crowded.size
        unfinished = sum(pull.end is None for pull in report.pulls)
        starts = [pull.first_byte for pull in report.pulls if pull.first_byte is not None]
        if not starts:
            raise BenchError(f"no client had received a byte after {report.seconds:.1f} s")
        in_progress = unfinished > 0 and fetched % 1 > _COMPLETE
        upstream_bytes.add(contestant.name, turn, fetched, floor=in_progress)
        spread.add(contestant.name, turn, (max(starts) - min(starts)) * 1e3, floor=len(starts) < CLIENTS)
        first.add(contestant.name, turn, max(starts) * 1e3, floor=len(starts) < CLIENTS)
        time.add(contestant.name, turn, report.seconds / alone, floor=unfinished > 0)
        return (
            f"{fetched:.2f} x upstream, first bytes {min(starts) * 1e3:.1f} to {max(starts) * 1e3:.1f} ms, "
            f"{report.seconds:.2f} s, alone {alone:.2f} s, {unfinished} unfinished"
        )

    stage.take_turns(label, act)
    return [upstream_bytes, spread, first, time]


def _crowd(server: Server, stage: Stage, *, limit: float) -> Report:
    report = pulls.pull(Order(server.port, stage.content.crowded.path, CLIENTS, limit=limit))
    failures = [pull.failure for pull in report.pulls if pull.failure]
    if failures:
        raise BenchError(f"{len(failures)} of {CLIENTS} pulls failed: {failures[0]}")
    return report
