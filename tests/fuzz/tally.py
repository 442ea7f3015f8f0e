"""What a run comes to: inputs, answers, and whatever must not be."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that must not be, and how to see it again."""

    kind: str
    what: str
    reproducer: str

    def __str__(self) -> str:
        return f"{self.kind.upper()}: {self.what}\n  again: {self.reproducer}"


KINDS = ("crash", "hang", "malformed", "unexpected 5xx", "wrong bytes", "astray")  # astray: sockets, files, programs


@dataclass(slots=True)
class Tally:
    """The figures of one target."""

    target: str
    seed: int
    inputs: int = 0
    seconds: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)
    connections: Counter[str] = field(default_factory=Counter)  # of the mirror's, by where they went
    failures: list[Failure] = field(default_factory=list)

    def fail(self, kind: str, what: str, number: int | None, made: bytes = b"") -> None:
        """Notes a failure of the input *number*; None where it is not known which one it was."""
        again = f"python -m tests.fuzz --only {self.target} --seed {self.seed}"
        if number is not None:
            again += f" --at {number}"
        if made:
            again += f"\n  input: {made[:2000]!r}{'…' if len(made) > 2000 else ''}"
        self.failures.append(Failure(kind, what[:2000], again))

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Adds the time of the block."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - began


def table(tallies: list[Tally]) -> Table:
    """The figures, one target a line."""
    drawn = Table(title="fuzz")
    for column in ("target", "inputs", "seconds", "distinct answers", *KINDS):
        drawn.add_column(column, justify="left" if column == "target" else "right")
    for tally in tallies:
        counts = Counter(failure.kind for failure in tally.failures)
        figures = (tally.inputs, round(tally.seconds, 1), len(tally.answers), *(counts[kind] for kind in KINDS))
        drawn.add_row(tally.target, *(f"{figure:,}" for figure in figures))
    return drawn
