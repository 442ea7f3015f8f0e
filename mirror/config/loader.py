"""Reading the settings: a file, laid over what is embedded, and what is wrong with it in words."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from mirror.config.default_upstreams import DEFAULT_UPSTREAMS
from mirror.config.sections import AccessRule, Section, UpstreamSettings
from mirror.config.settings import Settings
from mirror.errors import ConfigurationInvalid
from mirror.oci.names import DOCKER_HUB, canonical_upstream

VARIABLES = {
    "MIRROR_LISTEN": ("server", "listen"),
    "MIRROR_OFFLINE": ("server", "offline"),
    "MIRROR_CACHE": ("cache", "path"),
    "MIRROR_MAX_SIZE": ("cache", "max_size"),
    "MIRROR_LOG_FORMAT": ("log", "format"),
}
"""Variables of flags, for the commands that have no such flag too: section and key of what each sets."""

_SECTIONS = {"model_type", "model_attributes_type", "dict_type"}
_WORDS = {
    "tuple_type": 'it has to be a list, such as ["a", "b"]',
    "list_type": 'it has to be a list, such as ["a", "b"]',
    "string_type": "it has to be text, in quotes",
    "path_type": "it has to be a path, in quotes",
    "bool_type": "it has to be a boolean: true or false",
    "bool_parsing": "it has to be a boolean: true or false",
    "int_type": "it has to be an integer",
    "int_parsing": "it has to be an integer",
    "int_from_float": "it has to be an integer",
    "missing": "it has to be set",
}


def read_settings(file: Path | None, flags: Mapping[str, Mapping[str, object]], upstreams: list[str]) -> Settings:
    """The settings in force.

    Args:
        file: a TOML file; None for none.
        flags: what the command line says, by section and key (None: nothing); it goes above everything else.
        upstreams: NAME=URL, each added to the upstreams or replacing one's address.

    What the command line does not say is taken, before the file, from the flags' variables (`VARIABLES`).

    Raises:
        ConfigurationInvalid: something is unknown or makes no sense; each fault is a line of the message.
    """
    flags, upstreams = _or_variables(flags), upstreams or os.environ.get("MIRROR_UPSTREAM", "").split()
    found = {} if file is None else _read_toml(file)
    _merge_upstreams(found, upstreams)
    for name in found:
        if name not in Settings.model_fields:
            known = ", ".join(sorted(Settings.model_fields))
            raise ConfigurationInvalid(
                f"the configuration {file} can't be used: {name}: unknown key; known here: {known}"
            )
    try:
        settings = Settings(**found)
    except ValidationError as error:
        raise ConfigurationInvalid(_explain(error, file)) from error
    return settings.model_copy(
        update={name: _overridden(name, getattr(settings, name), keys) for name, keys in flags.items()}
    )


def _or_variables(flags: Mapping[str, Mapping[str, object]]) -> dict[str, Mapping[str, object]]:
    """Flags, and for those that a command does not have, or nobody gave, their variables."""
    found = {section: dict(keys) for section, keys in flags.items()}
    for variable, (section, key) in VARIABLES.items():
        keys = found.setdefault(section, {})
        if keys.get(key) is None:
            keys[key] = os.environ.get(variable) or None
    return dict(found)


def _overridden(name: str, section: Section, keys: Mapping[str, object]) -> Section:
    said = {key: value for key, value in keys.items() if value is not None}
    try:
        return type(section)(**{**section.model_dump(), **said})
    except ValidationError as error:
        raise ConfigurationInvalid(_explain(error, None, section=name)) from error


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise ConfigurationInvalid(f"the configuration {file} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also TOMLDecodeError, UnicodeDecodeError
        raise ConfigurationInvalid(f"the configuration {file} is not TOML: {error}") from error


def _merge_upstreams(found: dict[str, Any], upstreams: list[str]) -> None:
    """Lays the file's upstreams over the embedded ones, and those of the command line over both."""
    own = found.get("upstreams", {})
    if not isinstance(own, dict) or not all(isinstance(one, dict) for one in own.values()):
        return  # validation says what is wrong with it
    merged: dict[str, Any] = {
        name: {
            "url": url,
            "default": name == DOCKER_HUB and not any(one.get("default") is True for one in own.values()),
        }
        for name, url in DEFAULT_UPSTREAMS.items()
    }
    for name, one in own.items():
        key = _known_as(name, merged) if len({_known_as(each, merged) for each in own}) == len(own) else name
        merged[key] = _laid_over(merged.get(key, {}), one)
    for text in upstreams:
        name, equals, url = text.partition("=")
        if not (name and equals and url):
            raise ConfigurationInvalid(f"--upstream {text!r}: write NAME=URL, such as quay.io=https://quay.io")
        key = _known_as(name, merged)
        merged[key] = _laid_over(merged.get(key, {}), {"url": url})
    found["upstreams"] = merged


def _laid_over(base: Mapping[str, Any], one: Mapping[str, Any]) -> dict[str, Any]:
    """*base* with the keys of *one*; an address takes the place of the one there was, as url or as urls."""
    dropped = {"url", "urls"} if one.keys() & {"url", "urls"} else set()
    return {**{key: value for key, value in base.items() if key not in dropped}, **one}


def _known_as(name: str, known: Iterable[str]) -> str:
    """The spelling under which *known* has this upstream; *name* itself where it has none."""
    return next((one for one in known if canonical_upstream(one) == canonical_upstream(name)), name)


def _keys_beside(path: tuple[str | int, ...]) -> list[str]:
    """The keys that are allowed where *path* has one that is not."""
    section: type[BaseModel] = Settings
    if len(path) > 2 and path[0] == "upstreams":
        section = UpstreamSettings
    elif len(path) > 2 and path[0] == "access":
        section = AccessRule
    elif len(path) > 1:
        section = type(Settings.model_fields[str(path[0])].get_default(call_default_factory=True))
    return sorted(section.model_fields)


def _explain(error: ValidationError, file: Path | None, *, section: str = "") -> str:
    lines = [] if file is None else [f"the configuration {file} can't be used:"]
    for fault in error.errors(include_url=False, include_context=False):
        path = ".".join(map(str, (section, *fault["loc"]) if section else fault["loc"])) or "settings"
        message = _in_words(path, fault["type"], fault["msg"])
        if fault["type"] == "extra_forbidden":
            message = f"unknown key; known here: {', '.join(_keys_beside(fault['loc']))}"
        found = fault.get("input")
        # A URL may hold a password where it should not: what was found is then not for everybody to see.
        secret = "password" in path or (isinstance(found, str) and "@" in found)
        shown = f" (found {found!r})" if isinstance(found, str | int | float) and not secret else ""
        lines.append(f"{path}: {message}{shown}")
    return "\n  ".join(lines)


def _in_words(path: str, kind: str, message: str) -> str:
    """What is wrong with a value, for who knows TOML and not the classes behind it."""
    if kind in _SECTIONS or path == "access":
        section = "[[access]] for each rule" if path.startswith("access") else f"[{path}]"
        return f"it is a section: write {section}, and its keys below that"
    return _WORDS.get(kind) or message.removeprefix("Value error, ").replace("Input should be", "it has to be")
