"""Cold blob: throughput of a large blob that is not in the cache, from a fast upstream."""

from bench import pulls
from bench.client import Order
from bench.contestants import Contestant
from bench.stage import Stage
from bench.table import DIRECT, Row, Target


def measure(stage: Stage) -> list[Row]:
    """Measure one client, in each round also directly from the upstream."""
    size = f"{stage.content.large.size / 2**30:g} GiB"
    label = f"cold {size} blob, 1 connection"
    speed = Row(label, "GiB/s", 2, (Target(">=", 0.8, "nginx"), Target(">=", 4, "drayage")))
    share = Row(label, "ratio to direct", 2)
    cost = Row(label, "server CPU s/GiB", 3)

    def act(contestant: Contestant, turn: int) -> str:
        if turn not in speed.samples.get(DIRECT, {}):
            speed.add(DIRECT, turn, pulls.costed(stage.upstream, order_at(stage.upstream.port)).throughput)
        with stage.cold(contestant) as server:
            stage.warm_memory_for(stage.content.large)
            spent = pulls.costed(server, order_at(server.port))
        speed.add(contestant.name, turn, spent.throughput)
        share.add(contestant.name, turn, spent.throughput / speed.samples[DIRECT][turn])
        cost.add(contestant.name, turn, spent.cpu_per_gibibyte)
        return f"{spent.throughput:.2f} GiB/s, {spent.cpu_per_gibibyte:.3f} s/GiB"

    def order_at(port: int) -> Order:
        return Order(port, stage.content.large.path)

    stage.take_turns(label, act)
    return [speed, share, cost]
