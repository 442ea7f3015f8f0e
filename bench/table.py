"""Result table: rows, targets and verdicts, for the terminal and as Markdown and JSON."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from rich.table import Table as RichTable

MIRROR = "mirror"
DIRECT = "direct"  # not a contestant: the upstream itself


class Verdict(Enum):
    """Result of a target."""

    REACHED = "reached"
    MISSED = "missed"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Target:
    """A limit for the mirror's figure, or for its ratio to another contestant's figure."""

    sign: str  # ">=" or "<="
    limit: float
    peer: str | None = None
    digits: int = 2

    def judge(self, row: "Row") -> tuple[Verdict, str]:
        """Return the verdict, and a text with it and the figure."""
        goal = f"{self.sign} {self.limit:g}{f' x {self.peer}' if self.peer else ''}"
        figure = row.figure(MIRROR) if self.peer is None else row.ratio(MIRROR, self.peer)
        if figure is None:
            return Verdict.OPEN, f"open (target {goal})"
        rounded = round(figure, self.digits)
        is_reached = rounded >= self.limit if self.sign == ">=" else rounded <= self.limit
        verdict = Verdict.REACHED if is_reached else Verdict.MISSED
        return verdict, f"{verdict.value} {figure:.{self.digits}f} (target {goal})"


@dataclass(slots=True)
class Row:
    """One figure of all contestants in all rounds."""

    label: str
    unit: str
    digits: int = 2
    targets: Sequence[Target] = ()
    samples: dict[str, dict[int, float]] = field(default_factory=dict)
    floors: set[str] = field(default_factory=set)  # contestants with lower bounds only, at the time limit

    def add(self, contestant: str, turn: int, value: float, *, floor: bool = False) -> None:
        """Add a contestant's value in round *turn*. With *floor*, it is only a lower bound."""
        self.samples.setdefault(contestant, {})[turn] = value
        if floor:
            self.floors.add(contestant)

    def figure(self, contestant: str) -> float | None:
        """Return the median over the rounds, or None if there is no value."""
        values = self.samples.get(contestant)
        return statistics.median(values.values()) if values else None

    def ratio(self, contestant: str, peer: str) -> float | None:
        """Return the median of the ratios of the two values in the same round, over all rounds with both."""
        ours, theirs = self.samples.get(contestant, {}), self.samples.get(peer, {})
        ratios = [ours[turn] / theirs[turn] for turn in ours.keys() & theirs.keys() if theirs[turn]]
        return statistics.median(ratios) if ratios else None

    def verdicts(self) -> list[tuple[Verdict, str]]:
        """Return the verdict and its text for each target."""
        return [target.judge(self) for target in self.targets]


@dataclass(slots=True)
class Result:
    """Result of a run."""

    machine: str
    setting: str
    contestants: list[str]
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(
        default_factory=list
    )  # absent or failed contestants, with the measurement and the reason

    def cell(self, row: Row, contestant: str) -> str:
        """Return the text of a cell: the figure, `-` without one, `absent` if the contestant has no figure at all."""
        figure = row.figure(contestant)
        if figure is None:
            return "-" if contestant == DIRECT or any(contestant in other.samples for other in self.rows) else "absent"
        return f"{'> ' if contestant in row.floors else ''}{figure:,.{row.digits}f}"

    def notes(self) -> list[str]:
        """Return the lines below the table: machine, setting, number of reached targets, problems."""
        return [self.machine, self.setting, self.tally(), *self.problems]

    def tally(self) -> str:
        """Return a line with the number of targets per verdict."""
        verdicts = [verdict for row in self.rows for verdict, _ in row.verdicts()]
        counts = ((verdicts.count(kind), kind.value) for kind in Verdict)
        return "targets: " + ", ".join(f"{count} {name}" for count, name in counts if count)


_COLORS = {Verdict.REACHED: "green", Verdict.MISSED: "red", Verdict.OPEN: "yellow"}


def for_terminal(result: Result) -> RichTable:
    """Return the table with colors, for the terminal."""
    table = RichTable()
    table.add_column("measurement", overflow="fold")
    for name in result.contestants:
        table.add_column(name, justify="right", style="bold" if name == MIRROR else None)
    table.add_column("target", overflow="fold")
    for row in result.rows:
        verdicts = "\n".join(f"[{_COLORS[verdict]}]{text}[/]" for verdict, text in row.verdicts())
        cells = [result.cell(row, name) for name in result.contestants]
        table.add_row(f"{row.label}, {row.unit}", *cells, verdicts)
    return table


def as_markdown(result: Result) -> str:
    """Return the table as Markdown."""
    head = ["measurement", *result.contestants, "target"]
    lines = [
        "# Bench",
        "",
        *(f"- {line}" for line in result.notes()),
        "",
        _markdown_row(head),
        _markdown_row(["---", *("---:" for _ in result.contestants), "---"]),
    ]
    for row in result.rows:
        cells = [result.cell(row, name) for name in result.contestants]
        verdicts = "<br>".join(text for _, text in row.verdicts())
        lines.append(_markdown_row([f"{row.label}, {row.unit}", *cells, verdicts]))
    return "\n".join(lines) + "\n"


def as_json(result: Result) -> dict[str, object]:
    """Return all values of all rounds as JSON."""
    return {
        "machine": result.machine,
        "setting": result.setting,
        "problems": result.problems,
        "rows": [
            {
                "label": row.label,
                "unit": row.unit,
                "figures": {name: row.figure(name) for name in row.samples},
                "samples": {name: list(values.values()) for name, values in row.samples.items()},
                "targets": [text for _, text in row.verdicts()],
            }
            for row in result.rows
        ],
    }


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
