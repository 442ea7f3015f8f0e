"""Settings: embedded defaults, then a TOML file, then `MIRROR_…` variables, then flags.

One frozen section for each part, checked once at the start. A key that is unknown or a value that makes no sense
stops the start, with the key's path, what was found and what is allowed.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from mirror.errors import ConfigurationInvalid
from mirror.oci.names import DOCKER_HUB, canonical_upstream

_UNITS = {"": 1, "B": 1} | {
    name: base**power
    for power, letter in enumerate("KMGT", start=1)
    for name, base in ((f"{letter}B", 1000), (f"{letter}iB", 1024))
}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_QUANTITY = re.compile(r"([0-9]{1,24}(?:\.[0-9]{1,24})?)\s*([A-Za-z]*)")
_FOREVER = 1e15  # seconds; no clock counts further
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})")


def parse_size(value: object) -> int:
    """Bytes, of an integer or a text like "50GiB" or "10MB"."""
    if type(value) is int and value >= 0:
        return value
    found = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or found[2] not in _UNITS:
        raise ValueError("a size is bytes or a number with a unit, such as 500MB or 50GiB")
    return int(Fraction(found[1]) * _UNITS[found[2]])


def parse_duration(value: object) -> float:
    """Seconds, of a number or a text like "60s", "500ms" or "30d"."""
    seconds = -1.0
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(min(value, _FOREVER))
    elif isinstance(value, str) and (found := _QUANTITY.fullmatch(value.strip())) and found[2] in _SECONDS:
        seconds = float(found[1]) * _SECONDS[found[2]]
    if not 0 <= seconds < _FOREVER:
        raise ValueError("a duration is a number with a unit: 500ms, 60s, 15m, 12h, 30d")
    return seconds


Size = Annotated[int, BeforeValidator(parse_size)]
Duration = Annotated[float, BeforeValidator(parse_duration)]


class Section(BaseModel):
    """A part of the settings. Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)


class ServerSettings(Section):
    """Where the mirror listens, and whether it may ask upstreams at all."""

    listen: str = "127.0.0.1:5000"
    offline: bool = False

    @field_validator("listen")
    @classmethod
    def _is_address(cls, value: str) -> str:
        found = _ADDRESS.fullmatch(value)
        if found is None or int(found[3]) > 65535:
            raise ValueError("an address to listen on is HOST:PORT, such as 127.0.0.1:5000, 0.0.0.0:5000 or [::1]:5000")
        return value

    @property
    def host(self) -> str:
        return self.listen.rpartition(":")[0].removeprefix("[").removesuffix("]")

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])


def default_cache_path() -> Path:
    """Below the user's cache directory (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "mirror"


class CacheSettings(Section):
    """Where content is stored, and how much of it."""

    path: Path = Field(default_factory=default_cache_path)
    max_size: Size = parse_size("50GiB")
    min_free: Size = parse_size("1GiB")


class TagSettings(Section):
    """How long what upstream said of a tag holds."""

    fresh_for: Duration = 60.0
    stale_for: Duration = parse_duration("30d")
    missing_for: Duration = 5.0


class TimeoutSettings(Section):
    """Limits for waiting. None is a limit for a whole transfer: a large blob may take as long as it moves."""

    connect: Duration = 4.0
    first_byte: Duration = 8.0
    silence: Duration = 30.0
    shutdown: Duration = 30.0

    @field_validator("*")
    @classmethod
    def _is_positive(cls, value: float) -> float:
        if value <= 0:
            raise ValueError("must be longer than 0s")
        return value


class UpstreamSettings(Section):
    """One registry: where it is, and whom the mirror pulls as."""

    url: str
    default: bool = False
    username: str | None = None
    password_file: Path | None = None

    @field_validator("url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        if not _is_address(value):
            raise ValueError("an upstream's address is http:// or https://, a host and perhaps a port and a path")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _credentials_are_whole(self) -> UpstreamSettings:
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file go together: set both or none")
        return self

    def password(self) -> str | None:
        """The password in password_file, without the line's end; None where there is none.

        Raises:
            ConfigurationInvalid: the file can't be read.
        """
        if self.password_file is None:
            return None
        try:
            return self.password_file.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationInvalid(f"password_file {self.password_file} can't be read: {error}") from error


class LogSettings(Section):
    """What the log says, and how. Format "auto": console on a terminal, JSON otherwise."""

    format: Literal["auto", "json", "console"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


DEFAULT_UPSTREAMS = {
    DOCKER_HUB: "https://registry-1.docker.io",
    "quay.io": "https://quay.io",
    "ghcr.io": "https://ghcr.io",
    "gcr.io": "https://gcr.io",
    "registry.k8s.io": "https://registry.k8s.io",
    "mcr.microsoft.com": "https://mcr.microsoft.com",
    "public.ecr.aws": "https://public.ecr.aws",
    "nvcr.io": "https://nvcr.io",
}


def _default_upstreams() -> dict[str, UpstreamSettings]:
    return {name: UpstreamSettings(url=url, default=name == DOCKER_HUB) for name, url in DEFAULT_UPSTREAMS.items()}


class _Nested(EnvSettingsSource):
    """Variables that name a key of a section. MIRROR_CACHE is a flag's; it is not the section [cache] as JSON."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        _, key, is_complex = super().get_field_value(field, field_name)
        return None, key, is_complex


class Settings(BaseSettings):
    """All sections. `MIRROR_TAGS__FRESH_FOR=5m` sets `fresh_for` of `[tags]`, and so on for every key."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="MIRROR_", env_nested_delimiter="__", hide_input_in_errors=True
    )

    server: ServerSettings = ServerSettings()
    cache: CacheSettings = Field(default_factory=CacheSettings)
    tags: TagSettings = TagSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    log: LogSettings = LogSettings()
    upstreams: dict[str, UpstreamSettings] = Field(default_factory=_default_upstreams)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic-settings'
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (_Nested(settings_cls), init_settings)

    @model_validator(mode="after")
    def _upstreams_are_distinct(self) -> Settings:
        canonical = [canonical_upstream(name) for name in self.upstreams]
        for name in self.upstreams:
            if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d{1,5})?", name):
                raise ValueError(f"upstreams.{name!r}: an upstream's name is a host name, such as docker.io")
            if canonical.count(canonical_upstream(name)) > 1:
                raise ValueError(f"upstreams.{name!r} is named twice (docker.io, index.docker.io, … are one)")
        if sum(upstream.default for upstream in self.upstreams.values()) > 1:
            raise ValueError("upstreams: only one can have default = true")
        return self

    @property
    def default_upstream(self) -> str | None:
        """The one for requests that name none; None where no upstream has `default = true`."""
        return next((name for name, upstream in self.upstreams.items() if upstream.default), None)


def read_settings(file: Path | None, flags: Mapping[str, Mapping[str, object]], upstreams: list[str]) -> Settings:
    """The settings in force.

    Args:
        file: a TOML file; None for none.
        flags: what the command line says, by section and key (None: nothing); it goes above everything else.
        upstreams: NAME=URL, each added to the upstreams or replacing one's address.

    Raises:
        ConfigurationInvalid: something is unknown or makes no sense; each fault is a line of the message.
    """
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
        merged[key] = {**merged.get(key, {}), **one}
    for text in upstreams:
        name, equals, url = text.partition("=")
        if not (name and equals and url):
            raise ConfigurationInvalid(f"--upstream {text!r}: write NAME=URL, such as quay.io=https://quay.io")
        key = _known_as(name, merged)
        merged[key] = {**merged.get(key, {}), "url": url}
    found["upstreams"] = merged


def _known_as(name: str, known: Iterable[str]) -> str:
    """The spelling under which *known* has this upstream; *name* itself where it has none."""
    return next((one for one in known if canonical_upstream(one) == canonical_upstream(name)), name)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return whole and parts.username is None and not (parts.query or parts.fragment or re.search(r"[^!-~]", url))


def _keys_beside(path: tuple[str | int, ...]) -> list[str]:
    """The keys that are allowed where *path* has one that is not."""
    section: type[BaseModel] = Settings
    if len(path) > 2 and path[0] == "upstreams":
        section = UpstreamSettings
    elif len(path) > 1:
        section = type(Settings.model_fields[str(path[0])].get_default(call_default_factory=True))
    return sorted(section.model_fields)


def _explain(error: ValidationError, file: Path | None, *, section: str = "") -> str:
    lines = [] if file is None else [f"the configuration {file} can't be used:"]
    for fault in error.errors(include_url=False, include_context=False):
        path = ".".join(map(str, (section, *fault["loc"]) if section else fault["loc"])) or "settings"
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = f"unknown key; known here: {', '.join(_keys_beside(fault['loc']))}"
        found = fault.get("input")
        # A URL may hold a password where it should not: what was found is then not for everybody to see.
        secret = "password" in path or (isinstance(found, str) and "@" in found)
        shown = f" (found {found!r})" if isinstance(found, str | int | float) and not secret else ""
        lines.append(f"{path}: {message}{shown}")
    return "\n  ".join(lines)
