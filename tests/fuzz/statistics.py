"""Counts of inputs and answers, and failures with the commands that reproduce them."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure, and the command that reproduces it."""

    kind: str
    what: str
    reproducer: str

    def __str__(self) -> str:
        return f"{self.kind.upper()}: {self.what}\n  again: {self.reproducer}"


# "astray" is a connection, a file or a program that the mirror must not open
KINDS = ("crash", "hang", "malformed", "unexpected 5xx", "wrong bytes", "astray")


@dataclass(slots=True)
class Statistics:
    """The counts and failures of one target."""

    target: str
    seed: int
    inputs: int = 0
    seconds: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)
    connections: Counter[str] = field(default_factory=Counter)  # connections of the mirror, by destination
    failures: list[Failure] = field(default_factory=list)

    def fail(self, kind: str, what: str, number: int | None, made: bytes = b"") -> None:
        """Record a failure of input *number*; None if the input is unknown."""
        again = f"python -m tests.fuzz --only {self.target} --seed {self.seed}"
        if number is not None:
            again += f" --at {number}"
        if made:
            again += f"\n  input: {made[:2000]!r}{'…' if len(made) > 2000 else ''}"
        self.failures.append(Failure(kind, what[:2000], again))

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the duration of the block."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - started


def table(statistics: list[Statistics]) -> Table:
    """Return the counts as a table with one target in each row."""
    rows = Table(title="fuzz")
    for column in ("target", "inputs", "seconds", "distinct outcomes", *KINDS):
        rows.add_column(column, justify="left" if column == "target" else "right")
    for one in statistics:
        counts = Counter(failure.kind for failure in one.failures)
        figures = (one.inputs, round(one.seconds, 1), len(one.answers), *(counts[kind] for kind in KINDS))
        rows.add_row(one.target, *(f"{figure:,}" for figure in figures))
    return rows
