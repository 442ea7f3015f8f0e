"""Warm blob: throughput and server CPU cost of a large blob in the cache."""

from bench import pulls
from bench.client import Order
from bench.contestants import Contestant
from bench.stage import Stage
from bench.table import Row, Target

WINDOW = 2.5  # seconds of repeated pulls
# A single process that receives on 16 connections is saturated. TCP on loopback sends queued data when the receiver
# reads, and so on the receiver's CPU time: one process would hide the server's cost.
CLIENT_PROCESSES = 2
_MANY = 1_000_000
_FASTER = (Target(">=", 1.0, "nginx"),)
_CHEAPER = (Target("<=", 1.0, "nginx"),)


def measure(stage: Stage) -> list[Row]:
    """Measure with 1 and with 16 connections."""
    size = f"{stage.content.large.size / 2**30:g} GiB"
    rows = []
    with stage.all_warm("warm blob") as servers:
        for connections in (1, 16):
            label = f"warm {size} blob, {connections} connection{'s' if connections > 1 else ''}"
            processes = min(connections, CLIENT_PROCESSES)
            if processes > 1:
                label += f" of {processes} processes"
            speed = Row(label, "GiB/s", 2, _FASTER)
            cost = Row(label, "server CPU s/GiB", 3, _CHEAPER)
            rows += [speed, cost]

            def act(
                contestant: Contestant,
                turn: int,
                *,
                count: int = connections,
                processes: int = processes,
                speed: Row = speed,
                cost: Row = cost,
            ) -> str:
                server = servers[contestant.name]
                order = Order(server.port, stage.content.large.path, count, _MANY, limit=WINDOW)
                spent = pulls.costed(server, order, whole=False, processes=processes)
                speed.add(contestant.name, turn, spent.throughput)
                cost.add(contestant.name, turn, spent.cpu_per_gibibyte)
                busy = spent.report.cpu_seconds / spent.report.seconds
                return f"{spent.throughput:.2f} GiB/s, {spent.cpu_per_gibibyte:.3f} s/GiB, client busy {busy:.0%}"

            stage.take_turns(label, act, among=servers)
    return rows
