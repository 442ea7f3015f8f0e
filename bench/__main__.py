"""`python -m bench`: start all servers on loopback, measure, print one table, and write it to bench/results/."""

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from bench import contestants, machine, table, upstreams
from bench.content import prepare
from bench.measurements import ci, cold_blob, commands, crowd, manifests, memory, startup, warm_blob
from bench.servers import BenchError
from bench.stage import Stage

RESULTS = Path(__file__).parent / "results"
CROWDED_SIZE = 100 << 20
REQUIRED_COPIES = 8  # of the large blob, which must fit on the disk
TABLE_WIDTH = 160
MEASUREMENTS: dict[str, Callable[[Stage], list[table.Row]]] = {
    "warm-blob": warm_blob.measure,
    "warm-manifest": manifests.measure,
    "cold-blob": cold_blob.measure,
    "crowd": crowd.measure,
    "memory": memory.measure,
    "ci": ci.measure,
    "start": startup.measure,
    "commands": commands.measure,
}
CONTESTANTS = (*contestants.PEERS, contestants.MIRROR)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measurements and return the exit status. It is 0 even if targets are missed: the table shows that."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # runs the cleanup of all started servers
    RESULTS.mkdir(exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="run-", dir=options.dir or RESULTS) as folder:
            result = _run(options, Path(folder))
    except KeyboardInterrupt:
        Console(stderr=True).print("bench: stopped, with all servers that it started", style="red", highlight=False)
        return 130
    except (BenchError, OSError) as error:
        Console(stderr=True).print(f"bench: {error}", style="red", highlight=False)
        return 1
    console = Console()
    if not console.is_terminal:
        console = Console(width=TABLE_WIDTH)
    console.print(table.for_terminal(result))
    for note in result.notes():
        console.print(note, highlight=False, markup=False)
    (RESULTS / "latest.md").write_text(table.as_markdown(result))
    (RESULTS / "latest.json").write_text(json.dumps(table.as_json(result), indent=2) + "\n")
    return 0


def _run(options: argparse.Namespace, folder: Path) -> table.Result:
    size: int = options.size << 20
    free = shutil.disk_usage(folder).free
    if free < REQUIRED_COPIES * size:
        raise BenchError(f"{folder}: {free / 2**30:.1f} GiB free, {REQUIRED_COPIES * size / 2**30:.1f} GiB needed")
    before = machine.Use.so_far()
    console = Console(stderr=True)
    image = prepare(folder / "content", large=size, crowded=CROWDED_SIZE)
    playing = [contestant for contestant in CONTESTANTS if contestant.name in options.contestants]
    with upstreams.fast(image, folder / "upstream") as upstream:
        stage = Stage(folder, image, upstream, playing, options.rounds, console, options.patience)
        rows = [row for name in options.only for row in MEASUREMENTS[name](stage)]
    after = machine.Use.so_far()
    setting = (
        f"medians of {options.rounds} rounds, contestants alternate; one worker each for mirror and nginx, "
        f"no thread limit for docker-registry and drayage; loopback; {after.at - before.at:.0f} s, "
        f"during which other programs used {after.by_others(before):.0%} of the machine"
    )
    measured = {name for row in rows for name in row.samples} | {
        problem.partition(",")[0] for problem in stage.problems
    }
    names = [table.DIRECT, *(contestant.name for contestant in playing if contestant.name in measured)]
    return table.Result(machine.description(), setting, names, rows, stage.problems)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench", description=__doc__)
    names = [contestant.name for contestant in CONTESTANTS]
    parser.add_argument(
        "--only",
        type=_choice(MEASUREMENTS),
        default=list(MEASUREMENTS),
        metavar="NAME,…",
        help=f"measurements, of {', '.join(MEASUREMENTS)} (default: all)",
    )
    parser.add_argument(
        "--contestants",
        type=_choice(names),
        default=names,
        metavar="NAME,…",
        help=f"of {', '.join(names)} (default: all)",
    )
    parser.add_argument("--rounds", type=_positive, default=3, help="of each measurement (default: 3)")
    parser.add_argument("--size", type=_positive, default=1024, metavar="MIB", help="of the large blob (default: 1024)")
    parser.add_argument(
        "--patience",
        type=float,
        default=0.0,
        metavar="S",
        help="wait up to S seconds before each sample for an idle CPU",
    )
    parser.add_argument("--dir", type=Path, help="folder for caches, on a real disk (default: bench/results)")
    return parser.parse_args(arguments)


def _choice(names: Sequence[str] | dict[str, Callable[[Stage], list[table.Row]]]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        wanted = text.split(",")
        unknown = [name for name in wanted if name not in names]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(names)}")
        return wanted

    return parse


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
