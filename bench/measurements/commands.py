"""Start-up time of the mirror's commands: help, version, shell completion, client-config."""

import os
import subprocess
import sys
import time

from bench import machine
from bench.contestants import MIRROR
from bench.stage import Stage
from bench.table import Row, Target

COMMANDS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "mirror --version": (("--version",), {}),
    "mirror --help": (("--help",), {}),
    "mirror warm --help": (("warm", "--help"), {}),
    "mirror client-config docker --mirror URL": (("client-config", "docker", "--mirror", "http://127.0.0.1:5000"), {}),
    "mirror ser<TAB>": ((), {"_MIRROR_COMPLETE": "bash_complete", "COMP_WORDS": "mirror ser", "COMP_CWORD": "1"}),
}
REPEATS = 5  # in each round; the fastest counts, as other programs only add to it


def measure(stage: Stage) -> list[Row]:
    """From the start of the process to its end."""
    if MIRROR not in stage.contestants:
        return []
    rows = []
    with stage.forgiving(MIRROR, "commands"):
        for label, (arguments, variables) in COMMANDS.items():
            row = Row(label, "s", 3, (Target("<=", 0.15, digits=3),))
            rows.append(row)
            for turn in range(stage.rounds):
                machine.await_quiet(stage.patience)
                row.add(MIRROR.name, turn, min(_seconds(arguments, variables) for _ in range(REPEATS)))
            stage.say(f"{label}: {row.figure(MIRROR.name):.3f} s")
    return rows


def _seconds(arguments: tuple[str, ...], variables: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "mirror", *arguments],
        env={**os.environ, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - started
