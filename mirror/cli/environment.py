"""The settings in force for a command, after a check for misspelled `MIRROR_` variables."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path

from pydantic import BaseModel

from mirror.config import Settings, read_settings
from mirror.errors import ConfigurationInvalid

_PREFIX = "MIRROR_"
_SHORT = ("CONFIG", "LISTEN", "CACHE", "MAX_SIZE", "UPSTREAM", "OFFLINE", "LOG_FORMAT")  # the variables of flags
_SIMILARITY = 0.88  # of 1: MAXSIZE is similar enough to MAX_SIZE, CACHE_PORT is not to CACHE_PATH


def settings_in_force(config: Path | None, flags: Mapping[str, Mapping[str, object]], upstreams: list[str]) -> Settings:
    """Return the settings of a command: flags, then variables, then the file, then defaults.

    Raises:
        ConfigurationInvalid: if a key, a value or a variable's name is wrong.
    """
    refuse_misspelled_variables(os.environ)
    return read_settings(config, flags, upstreams)


def refuse_misspelled_variables(names: Iterable[str]) -> None:
    """Raise ConfigurationInvalid for a variable whose name is almost one of the mirror's: it would have no effect.

    Other variables with the prefix pass: Kubernetes sets MIRROR_PORT for a service called mirror.

    Raises:
        ConfigurationInvalid: if a variable is misspelled, or names a section that does not exist.
    """
    known = {name: name for name in _SHORT} | {
        f"{section}_{key}".upper(): f"{section}__{key}".upper()
        for section, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        for key in field.annotation.model_fields
    }
    for name in names:
        rest = name.upper().removeprefix(_PREFIX)
        if rest == name.upper() or rest in _SHORT:
            continue
        section, nested, _ = rest.partition("__")
        if nested and section.lower() not in Settings.model_fields:
            sections = ", ".join(sorted(Settings.model_fields))
            raise ConfigurationInvalid(f"{name}: there is no section {section.lower()}; the sections are: {sections}")
        if not nested and (similar := get_close_matches(rest, known, n=1, cutoff=_SIMILARITY)):
            raise ConfigurationInvalid(f"{name} is not a variable of the mirror: write {_PREFIX}{known[similar[0]]}")
