"""Loader of the settings: merges all sources, and explains every invalid key."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mirror.config.default_upstreams import DEFAULT_UPSTREAMS
from mirror.config.sections import Section
from mirror.config.settings import Settings
from mirror.config.validation_message import KeyPath, validation_message
from mirror.errors import ConfigurationInvalid
from mirror.oci.names import DOCKER_HUB, canonical_upstream

VARIABLES = {
    "MIRROR_LISTEN": ("server", "listen"),
    "MIRROR_OFFLINE": ("server", "offline"),
    "MIRROR_CACHE": ("cache", "path"),
    "MIRROR_MAX_SIZE": ("cache", "max_size"),
    "MIRROR_LOG_FORMAT": ("log", "format"),
}
"""The variables of flags, with the section and key that each sets. They also apply to commands without the flag."""

_SECTION_ERRORS = {"model_type", "model_attributes_type", "dict_type"}
_EXPLANATIONS = {
    "tuple_type": 'must be a list, such as ["a", "b"]',
    "list_type": 'must be a list, such as ["a", "b"]',
    "string_type": "must be text, in quotes",
    "path_type": "must be a path, in quotes",
    "bool_type": "must be a boolean: true or false",
    "bool_parsing": "must be a boolean: true or false",
    "int_type": "must be an integer",
    "int_parsing": "must be an integer",
    "int_from_float": "must be an integer",
    "missing": "must be set",
}


def read_settings(file: Path | None, flags: Mapping[str, Mapping[str, object]], upstreams: list[str]) -> Settings:
    """Return the settings, merged from all sources and validated.

    Args:
        file: a TOML file; None for none.
        flags: values from the command line, by section and key (None: not given). They override all other sources.
        upstreams: from the command line, each NAME=URL: adds an upstream, or replaces the address of one.

    For a flag that is not given, its variable (`VARIABLES`) counts, and overrides the file.

    Raises:
        ConfigurationInvalid: if a key is unknown or a value is invalid. The message has a line for each fault.
    """
    flags, upstreams = _or_variables(flags), upstreams or os.environ.get("MIRROR_UPSTREAM", "").split()
    found = {} if file is None else _read_toml(file)
    _merge_upstreams(found, upstreams)
    for name in found:
        if name not in Settings.model_fields:
            known = ", ".join(sorted(Settings.model_fields))
            raise ConfigurationInvalid(f"the configuration {file} is invalid: {name}: unknown key; known keys: {known}")
    try:
        settings = Settings(**found)
    except ValidationError as error:
        raise ConfigurationInvalid(_explain(error, file)) from error
    return settings.model_copy(
        update={name: _overridden(name, getattr(settings, name), keys) for name, keys in flags.items()}
    )


def _or_variables(flags: Mapping[str, Mapping[str, object]]) -> dict[str, Mapping[str, object]]:
    """Return the flags, with the value of its variable for each flag that is missing or not given."""
    found = {section: dict(keys) for section, keys in flags.items()}
    for variable, (section, key) in VARIABLES.items():
        keys = found.setdefault(section, {})
        if keys.get(key) is None:
            keys[key] = os.environ.get(variable) or None
    return dict(found)


def _overridden(name: str, section: Section, keys: Mapping[str, object]) -> Section:
    given = {key: value for key, value in keys.items() if value is not None}
    try:
        return type(section)(**{**section.model_dump(), **given})
    except ValidationError as error:
        raise ConfigurationInvalid(_explain(error, None, type(section), (name,))) from error


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise ConfigurationInvalid(f"the configuration {file} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also TOMLDecodeError, UnicodeDecodeError
        raise ConfigurationInvalid(f"the configuration {file} is not TOML: {error}") from error


def _merge_upstreams(found: dict[str, Any], upstreams: list[str]) -> None:
    """Merge the file's upstreams into the embedded ones, and those of the command line into both."""
    own = found.get("upstreams", {})
    if not isinstance(own, dict) or not all(isinstance(one, dict) for one in own.values()):
        return  # validation reports the fault
    merged: dict[str, Any] = {
        name: {
            "url": url,
            "default": name == DOCKER_HUB and not any(one.get("default") is True for one in own.values()),
        }
        for name, url in DEFAULT_UPSTREAMS.items()
    }
    for name, one in own.items():
        key = _existing_name(name, merged) if len({_existing_name(each, merged) for each in own}) == len(own) else name
        merged[key] = _merged(merged.get(key, {}), one)
    for text in upstreams:
        name, equals, url = text.partition("=")
        if not (name and equals and url):
            raise ConfigurationInvalid(
                f"--upstream {text!r} is invalid: write NAME=URL, such as quay.io=https://quay.io"
            )
        key = _existing_name(name, merged)
        merged[key] = _merged(merged.get(key, {}), {"url": url})
    found["upstreams"] = merged


def _merged(base: Mapping[str, Any], one: Mapping[str, Any]) -> dict[str, Any]:
    """Return *base* updated with *one*. A new url or urls replaces both the old url and the old urls."""
    dropped = {"url", "urls"} if one.keys() & {"url", "urls"} else set()
    return {**{key: value for key, value in base.items() if key not in dropped}, **one}


def _existing_name(name: str, known: Iterable[str]) -> str:
    """Return the spelling under which *known* contains the upstream *name*, or *name* itself if it does not."""
    return next((one for one in known if canonical_upstream(one) == canonical_upstream(name)), name)


def _explain(
    error: ValidationError, file: Path | None, table: type[BaseModel] = Settings, above: tuple[str, ...] = ()
) -> str:
    title = None if file is None else f"the configuration {file} is invalid:"
    return validation_message(error, table, title=title, whole="settings", above=above, describe=_described)


def _described(path: KeyPath, fault: ErrorDetails, message: str) -> str:
    """Return the fault of a value, with the value unless it may be secret."""
    found, place = fault.get("input"), ".".join(map(str, path))
    message = _explanation(place, fault["type"], message)
    if fault["type"] == "extra_forbidden" and path[0] == "upstreams" and isinstance(found, dict):
        name = ".".join(map(str, path[1:]))  # [upstreams.docker.io]
        message = f'the name of an upstream needs quotes: write [upstreams."{name}"]'
    # A URL may contain a password, although it must not: do not show such a value.
    secret = "password" in place or (isinstance(found, str) and "@" in found)
    shown = f" (found {found!r})" if isinstance(found, str | int | float) and not secret else ""
    return f"{message}{shown}"


def _explanation(path: str, kind: str, message: str) -> str:
    """Return what is wrong with a value, in terms of TOML instead of the classes behind it."""
    if kind in _SECTION_ERRORS or path == "access":
        section = "[[access]] for each rule" if path.startswith("access") else f"[{path}]"
        return f"must be a section: write {section} and its keys below it"
    return _EXPLANATIONS.get(kind) or message.replace("Input should be", "must be")
