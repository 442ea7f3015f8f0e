"""Variables that are meant for the mirror and are none of its own: settings that would silently not apply."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from pydantic import BaseModel

from mirror.config import Settings
from mirror.errors import ConfigurationInvalid

_PREFIX = "MIRROR_"
_SHORT = ("CONFIG", "LISTEN", "CACHE", "MAX_SIZE", "UPSTREAM", "OFFLINE", "LOG_FORMAT")  # those of the flags
_LIKE = 0.88  # of 1: MAXSIZE is MAX_SIZE, and CACHE_PORT is not CACHE_PATH


def check_variables(names: Iterable[str]) -> None:
    """Lets pass what is known, and what only begins alike: Kubernetes makes MIRROR_PORT for a service called mirror.

    Raises:
        ConfigurationInvalid: a variable is nearly one of the mirror's, or names a section that there is not.
    """
    meant = {name: name for name in _SHORT} | {
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
            known = ", ".join(sorted(Settings.model_fields))
            raise ConfigurationInvalid(f"{name}: there is no section {section.lower()}; known here: {known}")
        if not nested and (like := get_close_matches(rest, meant, n=1, cutoff=_LIKE)):
            raise ConfigurationInvalid(f"{name} is no variable of the mirror: write {_PREFIX}{meant[like[0]]}")
