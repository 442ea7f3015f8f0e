"""Environment variables and configuration files for tests."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mirror.config import Settings, read_settings

SHOWN = Path(__file__).parents[2] / "config" / "mirror.toml"


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set these variables and no other variable of the mirror; restore the environment at the end."""
    before = dict(os.environ)
    for name in before:
        if name.upper().startswith("MIRROR_"):
            del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def read(file: Path, text: str, **flags: Mapping[str, object]) -> Settings:
    """Return the settings of the configuration *text*, with values of the command line by section and key."""
    file.write_text(text)
    return read_settings(file, flags, [])


def written(path: tuple[str, ...], value: str) -> str:
    """Return a configuration with one key."""
    *table, key = path
    header = ".".join(f'"{name}"' for name in table)
    return f"[{header}]\n{key} = {value}\n"


def _keys(tables: Mapping[str, Any], *path: str) -> Iterator[tuple[str, ...]]:
    for name, value in tables.items():
        if isinstance(value, dict):
            yield from _keys(value, *path, name)
        else:
            yield (*path, name)


SHOWN_KEYS = frozenset(_keys(tomllib.loads(SHOWN.read_text())))
KEYS = sorted({*SHOWN_KEYS, ("cache", "path")})
"""All configuration keys, except those of upstreams."""
