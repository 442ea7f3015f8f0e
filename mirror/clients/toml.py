"""TOML files: parse, and edit without losing comments and order."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from mirror.errors import ClientConfigurationInvalid

Document = dict[str, Any]


def read(text: str) -> Document:
    """Parse *text*.

    Raises:
        ClientConfigurationInvalid: if it is not TOML.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ClientConfigurationInvalid(f"it is not TOML: {error}") from error


def edited(text: str, wanted: Document, edit: Callable[[tomlkit.TOMLDocument], str]) -> str:
    """Return *text* after *edit*, verified to parse to *wanted*, with its hosts in that order.

    Raises:
        ClientConfigurationInvalid: if the result differs, because *text* is written in a way that *edit* can't handle.
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
        raise ClientConfigurationInvalid("its form can't be edited safely: add the mirror by hand")
    return result


def table_at(document: Document, *path: str) -> Document:
    """Return the table at *path*; an empty one if it is missing.

    Raises:
        ClientConfigurationInvalid: if a value at *path* is not a table.
    """
    for key in path:
        document = document.get(key, {})
        if not isinstance(document, dict):
            raise ClientConfigurationInvalid(f"{'.'.join(path)} must be a table")
    return document


def strings_at(table: Document, key: str) -> list[str]:
    """Return the list of strings at *key*; an empty one if it is missing.

    Raises:
        ClientConfigurationInvalid: if the value is not a list of strings.
    """
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ClientConfigurationInvalid(f"{key} must be a list of strings")
    return value


def _order(document: Document) -> list[str]:
    """Return the hosts in order, which is the order in which containerd tries them."""
    hosts = document.get("host")
    return list(hosts) if isinstance(hosts, dict) else []
