"""CI job pulls by a fresh dockerd: directly from a distant registry, through a cold sidecar, and through a warm one."""

from collections.abc import Iterator

from bench import job
from bench.contestants import MIRROR
from bench.line import Line, line
from bench.servers import Server
from bench.stage import Stage
from bench.table import DIRECT, Row, Target

RATE = 100e6 / 8  # bytes a second
DELAY = 0.010  # seconds in one direction; the round-trip time is 20 ms
_MIB = 2**20


class _Figures:
    """Rows for the cost of a job with a cold or a warm sidecar, and without one."""

    def __init__(self, label: str, target: Target) -> None:
        self._time = Row(label, "s", 1)
        self._share = Row(label, "ratio to direct", 2, (target,))
        self._far = Row(label, "MiB over the line", 1)

    def add(self, turn: int, direct: tuple[float, float], ours: tuple[float, float]) -> None:
        """Add the seconds and bytes of one round."""
        for name, (seconds, carried) in ((DIRECT, direct), (MIRROR.name, ours)):
            self._time.add(name, turn, seconds)
            self._far.add(name, turn, carried / _MIB)
        self._share.add(MIRROR.name, turn, ours[0] / direct[0])

    @property
    def rows(self) -> list[Row]:
        return [self._time, self._share, self._far]


def measure(stage: Stage) -> list[Row]:
    """Measure all three in each round, each with its own dockerd. The warm sidecar is the cold one, restarted."""
    if MIRROR not in stage.contestants:
        return []
    rows: list[Row] = []
    with stage.forgiving(MIRROR, "CI job"):
        folder = stage.folder / "job"
        size = job.prepare(folder)
        label = f"CI job, {len(job.IMAGES)} images, {size / _MIB:.0f} MiB over {RATE * 8 / 1e6:.0f} Mbit/s, 20 ms"
        cold = _Figures(f"{label}, cold sidecar", Target("<=", 1.1))
        warm = _Figures(f"{label}, warm sidecar", Target("<=", 0.5))
        with line(folder, rate=RATE, delay=DELAY) as link, job.far_registry(folder, link) as upstream:
            for turn in range(stage.rounds):
                direct, first, second = _round(stage, link, upstream, turn)
                cold.add(turn, direct, first)
                warm.add(turn, direct, second)
                outcome = f"direct {direct[0]:.1f} s, cold {first[0]:.1f} s, warm {second[0]:.1f} s"
                stage.say(f"{label} {turn + 1}/{stage.rounds}: {outcome}")
        rows += [*cold.rows, *warm.rows]
    return rows


def _round(stage: Stage, link: Line, upstream: Server, turn: int) -> Iterator[tuple[float, float]]:
    """Yield the seconds and the bytes over the link: directly, with a cold sidecar, and with the same one warm."""
    yield _cost(link, upstream)
    for _ in ("cold", "warm"):
        with MIRROR.running(stage.folder / "job" / f"mirror-{turn}", upstream.url) as sidecar:
            yield _cost(link, sidecar)


def _cost(link: Line, server: Server) -> tuple[float, float]:
    before = link.carried()
    return job.seconds(server.url), link.carried() - before
