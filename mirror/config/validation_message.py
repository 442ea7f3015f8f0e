"""Messages for invalid TOML files, from pydantic's errors: a line for each fault, with its place and the valid keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

KeyPath = tuple[str | int, ...]
"""The place of a value in a file: keys, and indexes of lists."""
Describe = Callable[[KeyPath, ErrorDetails, str], str]


def validation_message(
    error: ValidationError,
    table: type[BaseModel],
    *,
    title: str | None,
    whole: str,
    above: KeyPath = (),
    describe: Describe = lambda _path, _fault, message: message,
) -> str:
    """Return a message with a line for each fault.

    Args:
        table: the class that was validated; for an unknown key, the line lists the keys of its table.
        title: the first line; None for none.
        whole: the name of the file, for a fault that has no place.
        above: the place of *table* in the file.
        describe: returns the text of a fault, given its place, pydantic's details and the text without changes.
    """
    lines = [] if title is None else [title]
    for fault in error.errors(include_url=False, include_context=False):
        path, message = (*above, *fault["loc"]), fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = f"unknown key; known keys: {', '.join(_known_keys(table, fault['loc']))}"
        lines.append(f"{_place(path) or whole}: {describe(path, fault, message)}")
    return "\n  ".join(lines)


def _place(path: KeyPath) -> str:
    """Return *path* for a message. Counts from 1: `[[access]] number 2, users item 1`."""
    table, keys = "", path
    if len(path) > 1 and isinstance(path[1], int):
        table, keys = f"[[{path[0]}]] number {path[1] + 1}", path[2:]
    inner = "".join(f" item {key + 1}" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")
    return ", ".join(filter(None, (table, inner)))


def _known_keys(table: type[BaseModel], path: KeyPath) -> list[str]:
    """Return the keys of the table below *table* in which *path* names an unknown one."""
    for key in path[:-1]:  # an index, or the name of an upstream, is no field: it selects one of equal tables
        field = table.model_fields.get(str(key))
        table = (field and _table_in(field.annotation)) or table
    return sorted(field.alias or name for name, field in table.model_fields.items())


def _table_in(annotation: object) -> type[BaseModel] | None:
    """Return the class of a table, or of the tables in a list or a mapping; None for other values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_table_in, get_args(annotation))), None)
