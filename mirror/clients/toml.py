"""TOML that people wrote: read, and changed without losing their comments and their order."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from mirror.errors import ClientConfigurationInvalid

Document = dict[str, Any]


def read(text: str) -> Document:
    """What *text* says.

    Raises:
        ClientConfigurationInvalid: it is not TOML.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ClientConfigurationInvalid(f"it is not TOML: {error}") from error


def edited(text: str, wanted: Document, edit: Callable[[tomlkit.TOMLDocument], str]) -> str:
    """*text* after *edit*, if it then says exactly what is *wanted*, with its tables in that order.

    Raises:
        ClientConfigurationInvalid: it does not, for it is written in a way that can't be added to.
    """
    if read(text) == wanted and _order(read(text)) == _order(wanted):
        return text
    try:
        result = edit(tomlkit.parse(text))
        found = tomllib.loads(result)
        is_right = found == wanted and _order(found) == _order(wanted)
    except (TOMLKitError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        is_right, result = False, ""
    if not is_right:
        raise ClientConfigurationInvalid("it is written in a way that can't be added to safely: add to it by hand")
    return result


def table_at(document: Document, *path: str) -> Document:
    """The table at *path* of what was read; an empty one where there is none.

    Raises:
        ClientConfigurationInvalid: something else is there.
    """
    for key in path:
        document = document.get(key, {})
        if not isinstance(document, dict):
            raise ClientConfigurationInvalid(f"{'.'.join(path)} is no table")
    return document


def strings_at(table: Document, key: str) -> list[str]:
    """The list of strings under *key*.

    Raises:
        ClientConfigurationInvalid: something else is there.
    """
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ClientConfigurationInvalid(f"{key} is no list of strings")
    return value


def _order(document: Document) -> list[str]:
    """Hosts are asked in the order in which they are written."""
    hosts = document.get("host")
    return list(hosts) if isinstance(hosts, dict) else []
