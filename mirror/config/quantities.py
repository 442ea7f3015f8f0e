"""Parsing and formatting of sizes and durations (`50GiB`, `15m`)."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated

from pydantic import BeforeValidator

_UNITS = {"": 1, "B": 1} | {
    name: base**power
    for power, letter in enumerate("KMGT", start=1)
    for name, base in ((f"{letter}B", 1000), (f"{letter}iB", 1024))
}
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_QUANTITY = re.compile(r"([0-9]{1,24}(?:\.[0-9]{1,24})?)\s*([A-Za-z]*)")
_MAX_SECONDS = 1e15  # more than any clock counts


def parse_size(value: object) -> int:
    """Return bytes from an integer or a text such as "50GiB" or "10MB"."""
    if type(value) is int and value >= 0:
        return value
    found = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or found[2] not in _UNITS:
        raise ValueError("a size is bytes or a number with a unit, such as 500MB or 50GiB")
    return int(Fraction(found[1]) * _UNITS[found[2]])


def parse_duration(value: object) -> float:
    """Return seconds from a number or a text such as "60s", "500ms" or "30d"."""
    seconds = -1.0
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(min(value, _MAX_SECONDS))
    elif isinstance(value, str) and (found := _QUANTITY.fullmatch(value.strip())) and found[2] in _SECONDS:
        seconds = float(found[1]) * _SECONDS[found[2]]
    if not 0 <= seconds < _MAX_SECONDS:
        raise ValueError("a duration is a number with a unit: 500ms, 60s, 15m, 12h, 30d")
    return seconds


Size = Annotated[int, BeforeValidator(parse_size)]
Duration = Annotated[float, BeforeValidator(parse_duration)]


def format_size(size: float) -> str:
    """Return a readable size: `3.2 GiB`."""
    power = 0
    while size >= 1024 and power < len(_BINARY_UNITS) - 1:
        size /= 1024
        power += 1
    return f"{size:.1f} {_BINARY_UNITS[power]}" if power else f"{int(size)} B"


def format_count(number: int, noun: str) -> str:
    """Return a count with its noun: `1 image`, `2 images`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
