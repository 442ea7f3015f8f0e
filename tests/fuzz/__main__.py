"""`python -m tests.fuzz`: run the inputs, print the figures, and exit with 1 after a failure.

The program runs in its own network namespace, where the upstream has a public address: any connection to a private
address is an error, and no address in a hostile response is reached for real.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvloop
from rich.console import Console

from tests.fuzz import hostile_upstream, parsers, requests
from tests.fuzz.statistics import Statistics, table

COUNT = 100_000
SHARES = {"parsers": 0.5, "requests": 0.35, "answers": 0.15}
PUBLIC = "203.0.113.10"
_SHOWN = 10  # failures of a target
_IN_NAMESPACE = "FUZZ_INSIDE"
_NETWORK = f'ip link set lo up && ip address add {PUBLIC}/32 dev lo && exec "$@"'


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if not os.environ.pop(_IN_NAMESPACE, ""):
        return _run_in_namespace([*(sys.argv[1:] if arguments is None else arguments), "--seed", str(options.seed)])
    console = Console(width=150)
    console.print(f"seed {options.seed}, upstream at {PUBLIC}", highlight=False)
    statistics = [_run(target, options) for target in options.only]
    for figures in statistics:
        for failure in figures.failures[:_SHOWN]:
            console.print(f"{figures.target}: {failure}", highlight=False, markup=False, soft_wrap=True)
        if len(figures.failures) > _SHOWN:
            console.print(f"{figures.target}: and {len(figures.failures) - _SHOWN} more", highlight=False)
        if options.verbose:
            for answer, times in figures.answers.most_common():
                console.print(f"  {times:>8,} {figures.target}: {answer}", highlight=False, markup=False)
    console.print(table(statistics))
    for figures in statistics:
        if figures.connections:
            destinations = ", ".join(f"{times:,} {where}" for where, times in figures.connections.most_common(8))
            console.print(f"{figures.target}: the mirror's connections went to: {destinations}", highlight=False)
    failures = sum(len(figures.failures) for figures in statistics)
    total = sum(figures.inputs for figures in statistics)
    console.print(f"{total:,} inputs, {failures:,} failures, seed {options.seed}", highlight=False)
    return 1 if failures else 0


def _run_in_namespace(arguments: list[str]) -> int:
    """Return the exit status of this program in its own network namespace."""
    unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    if not all(map(shutil.which, ("unshare", "ip"))) or subprocess.run([*unshare, "true"], check=False).returncode:
        print("fuzz: needs a network of its own: run it as root, with util-linux and iproute2", file=sys.stderr)
        return 2
    program = [sys.executable, "-m", "tests.fuzz", *arguments]
    inside = [*unshare, "sh", "-c", _NETWORK, "sh", *program]
    return subprocess.run(inside, env={**os.environ, _IN_NAMESPACE: "yes"}, check=False).returncode


def _run(target: str, options: argparse.Namespace) -> Statistics:
    figures = Statistics(target, options.seed)
    count = max(1, round(options.count * SHARES[target] / sum(SHARES[one] for one in options.only)))
    if target == "parsers":
        parsers.run(figures, count, options.at)
        return figures
    run = requests.run if target == "requests" else hostile_upstream.run
    with tempfile.TemporaryDirectory(prefix="fuzz-") as directory:
        uvloop.run(run(figures, count, options.at, Path(directory), PUBLIC))
    return figures


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help=f"inputs in all (default: {COUNT:,})")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31), help="(default: a new one)")
    parser.add_argument("--only", action="append", choices=list(SHARES), help="a target; repeatable (default: all)")
    parser.add_argument("--at", type=int, help="the number of one input (of parsers: of one parser)")
    parser.add_argument("--verbose", action="store_true", help="list the distinct outcomes")
    options = parser.parse_args(arguments)
    options.only = options.only or list(SHARES)
    return options


if __name__ == "__main__":
    sys.exit(main())
