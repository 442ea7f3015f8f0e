"""Detection of the mirror's address anywhere in a client's configuration."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator

from mirror.clients.address import Address
from mirror.errors import ClientConfigurationInvalid


def mentions(text: str, address: Address) -> bool:
    """Return whether a key or value in *text* (JSON or TOML) is the mirror's address, or begins with it.

    Raises:
        ClientConfigurationInvalid: if *text* is neither JSON nor TOML.
    """
    try:
        found = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ClientConfigurationInvalid(str(error)) from error
    return any(_is_at(words, address.host) for words in _strings(found))


def _is_at(text: str, host: str) -> bool:
    return text.rpartition("://")[2].partition("/")[0].lower() == host


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, below in value.items():
            yield str(key)
            yield from _strings(below)
    elif isinstance(value, list):
        for below in value:
            yield from _strings(below)
