"""`python -m tests.fuzz`: sends the inputs, prints the figures, ends with 1 if anything was found.

It runs in a network of its own: the upstream has a public address there, so that whatever reaches a private one is
astray, and what hostile answers name is not reached in earnest.
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

from tests.fuzz import answers, parsers, requests
from tests.fuzz.tally import Tally, table

COUNT = 100_000
SHARES = {"parsers": 0.5, "requests": 0.35, "answers": 0.15}
PUBLIC = "203.0.113.10"
_SHOWN = 10  # failures of a target
_INSIDE = "FUZZ_INSIDE"
_NETWORK = f'ip link set lo up && ip address add {PUBLIC}/32 dev lo && exec "$@"'


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if not os.environ.pop(_INSIDE, ""):
        return _inside([*(sys.argv[1:] if arguments is None else arguments), "--seed", str(options.seed)])
    console = Console(width=150)
    console.print(f"seed {options.seed}, upstream at {PUBLIC}", highlight=False)
    tallies = [_run(target, options) for target in options.only]
    for tally in tallies:
        for failure in tally.failures[:_SHOWN]:
            console.print(f"{tally.target}: {failure}", highlight=False, markup=False, soft_wrap=True)
        if len(tally.failures) > _SHOWN:
            console.print(f"{tally.target}: and {len(tally.failures) - _SHOWN} more", highlight=False)
        if options.verbose:
            for answer, times in tally.answers.most_common():
                console.print(f"  {times:>8,} {tally.target}: {answer}", highlight=False, markup=False)
    console.print(table(tallies))
    for tally in tallies:
        if tally.connections:
            went = ", ".join(f"{times:,} {where}" for where, times in tally.connections.most_common(8))
            console.print(f"{tally.target}: the mirror's connections went to: {went}", highlight=False)
    failures = sum(len(tally.failures) for tally in tallies)
    total = sum(tally.inputs for tally in tallies)
    console.print(f"{total:,} inputs, {failures:,} failures, seed {options.seed}", highlight=False)
    return 1 if failures else 0


def _inside(arguments: list[str]) -> int:
    """The exit status of the same program in a network of its own."""
    unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    if not all(map(shutil.which, ("unshare", "ip"))) or subprocess.run([*unshare, "true"], check=False).returncode:
        print("fuzz: needs a network of its own: run it as root, with util-linux and iproute2", file=sys.stderr)
        return 2
    program = [sys.executable, "-m", "tests.fuzz", *arguments]
    inside = [*unshare, "sh", "-c", _NETWORK, "sh", *program]
    return subprocess.run(inside, env={**os.environ, _INSIDE: "yes"}, check=False).returncode


def _run(target: str, options: argparse.Namespace) -> Tally:
    tally = Tally(target, options.seed)
    count = max(1, round(options.count * SHARES[target] / sum(SHARES[one] for one in options.only)))
    if target == "parsers":
        parsers.run(tally, count, options.at)
        return tally
    run = requests.run if target == "requests" else answers.run
    with tempfile.TemporaryDirectory(prefix="fuzz-") as directory:
        uvloop.run(run(tally, count, options.at, Path(directory), PUBLIC))
    return tally


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help=f"inputs in all (default: {COUNT:,})")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31), help="(default: a new one)")
    parser.add_argument("--only", action="append", choices=list(SHARES), help="a target; repeatable (default: all)")
    parser.add_argument("--at", type=int, help="the number of one input (of parsers: of one parser)")
    parser.add_argument("--verbose", action="store_true", help="list the distinct answers")
    options = parser.parse_args(arguments)
    options.only = options.only or list(SHARES)
    return options


if __name__ == "__main__":
    sys.exit(main())
