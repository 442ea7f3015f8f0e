"""The table of `mirror ls`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mirror.admin.protocol import ImageSummary
from mirror.config.quantities import format_size

_COLUMNS = ("IMAGE", "DIGEST", "PLATFORMS", "SIZE", "SHARED", "AGE", "USED", "")
_LEFT_ALIGNED = ("DIGEST", "PLATFORMS", "")
_OPTIONAL = ("SHARED", "PLATFORMS", "AGE", "USED", "DIGEST")
"""Columns that a narrow terminal leaves out, in this order."""
_UNBOUNDED = 2**20  # columns
_AGES = ((86_400, "d"), (3_600, "h"), (60, "min"))


def print_table(images: Sequence[ImageSummary]) -> None:
    """Print *images* with as many columns as fit. Names are never shortened; a pipe or file gets all columns."""
    rows = [_row(image) for image in images]
    console = Console(soft_wrap=True)
    table = _table(rows, ())
    if not console.is_terminal:
        console.width = _width(console, table)
    for number in range(len(_OPTIONAL) + 1):
        table = _table(rows, _OPTIONAL[:number])
        if _width(console, table) <= console.width:
            break
    console.print(table)


def _width(console: Console, table: Table) -> int:
    """Return the width of *table* in columns of the terminal if nothing limits it."""
    return table.__rich_measure__(console, console.options.update(max_width=_UNBOUNDED)).maximum


def _table(rows: list[Mapping[str, str]], left_out: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="")
    shown = [column for column in _COLUMNS if column not in left_out]
    for column in shown:
        if column == "IMAGE":
            table.add_column(column, overflow="fold")
        else:
            table.add_column(column, justify="left" if column in _LEFT_ALIGNED else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(row[column]) for column in shown))
    return table


def _row(image: ImageSummary) -> Mapping[str, str]:
    notes = [note for note, applies in (("pinned", image.pinned), ("incomplete", not image.complete)) if applies]
    return {
        "IMAGE": image.name,
        "DIGEST": image.digest.hex[:12],
        "PLATFORMS": " ".join(image.platforms),
        "SIZE": format_size(image.size),
        "SHARED": format_size(image.shared),
        "AGE": _since(image.checked),
        "USED": _since(image.used),
        "": ", ".join(notes),
    }


def _since(moment: float | None) -> str:
    """Return how long ago *moment* (seconds since the epoch) was, in its largest unit."""
    if not moment:
        return "-"
    seconds = max(0, int(time.time() - moment))
    return next((f"{seconds // unit} {name}" for unit, name in _AGES if seconds >= unit), f"{seconds} s")
