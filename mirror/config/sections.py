"""The sections: one frozen class for each part of the mirror, with its defaults.

What stands below a key is what docs/configuration.md and config/mirror.toml say of it: `make reference` writes both.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mirror.config.default_upstreams import DEFAULT_UPSTREAMS
from mirror.config.quantities import Duration, Size, parse_duration, parse_size
from mirror.oci.names import DOCKER_HUB

_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})")


class Section(BaseModel):
    """A part of the settings. Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)


class ServerSettings(Section):
    """Where the mirror listens, with which certificate, and whether it may ask upstreams at all."""

    listen: str = "127.0.0.1:5000"
    """HOST:PORT. 0.0.0.0:5000 lets other machines in."""
    offline: bool = False
    """Never ask an upstream: serve what is cached, answer everything else with 404."""
    certificate_file: Path | None = None
    """Speak TLS, and nothing else, with this certificate (PEM, the chain included). Read anew on SIGHUP."""
    key_file: Path | None = None
    """The certificate's private key (PEM). Read anew on SIGHUP."""

    @model_validator(mode="after")
    def _tls_is_whole(self) -> ServerSettings:
        return _together(self, "certificate_file", "key_file")

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

    @property
    def url(self) -> str:
        """Where this machine reaches the mirror."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - what it listens on
        scheme = "http" if self.certificate_file is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"


def default_cache_path() -> Path:
    """Below the user's cache directory (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "mirror"


class ClientSettings(Section):
    """Who may come in. With neither file, everybody who reaches the port."""

    users_file: Path | None = None
    """Users and their passwords, as `htpasswd -B` writes them (bcrypt, cost 4 to 14); read anew on SIGHUP. With it
    everything but /healthz wants a login; without it nobody is asked. Passwords are as safe as the way they come by."""
    certificates_file: Path | None = None
    """Authorities (PEM) whose client certificates let in as well; the certificate's common name is the user."""
    verdict_for: Duration = parse_duration("5m")
    """How long an upstream's word on a client's own credentials holds (`client_auth = "passthrough"`)."""


class AccessRule(Section):
    """Who may pull what. The first rule whose users and repositories both match decides; with any rule, what none
    matches is denied.
    """

    users: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    """Globs of user names; "anonymous" is everybody where [clients] has neither file."""
    repositories: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    """Globs (`*` goes over slashes). A repository begins with its upstream's name, however it is asked for:
    docker.io/library/alpine."""
    allow: bool
    """Whether they may."""


class CacheSettings(Section):
    """Where content is stored, and how much of it."""

    path: Path = Field(default_factory=default_cache_path)
    """The directory, an OCI image layout. Not set, it is mirror/ below $XDG_CACHE_HOME or ~/.cache."""
    max_size: Size = Field(default=parse_size("50GiB"), gt=0)
    """All content together never takes more. What was not used for the longest time goes first."""
    min_free: Size = parse_size("1GiB")
    """Free space to leave on that disk, whoever fills it."""
    scrub_rate: Size = parse_size("8MiB")
    """How many bytes a second are read to find what the disk has damaged. 0 is none."""


class TagSettings(Section):
    """How long what upstream said of a tag holds."""

    fresh_for: Duration = 60.0
    """How long a tag is answered without asking upstream whether it moved."""
    fresh_when_low: Duration = parse_duration("1h")
    """The same, while upstream says that few pulls are left (Docker Hub's ratelimit-remaining below a tenth)."""
    stale_for: Duration = parse_duration("30d")
    """How long a tag is still answered while upstream can't be asked."""
    missing_for: Duration = 5.0
    """How long an upstream's 404 is remembered."""


class TimeoutSettings(Section):
    """Limits for waiting. None is a limit for a whole transfer: a large blob may take as long as it moves."""

    connect: Duration = 4.0
    """To connect to an upstream."""
    first_byte: Duration = 8.0
    """For an upstream's first byte, with redirects, tokens and a second try; with several urls, for all of them
    together."""
    silence: Duration = 30.0
    """Without a byte in the middle of a download, after which it is resumed."""
    shutdown: Duration = 30.0
    """For running pulls to end when the mirror is told to stop."""

    @field_validator("*")
    @classmethod
    def _is_positive(cls, value: float) -> float:
        if value <= 0:
            raise ValueError("must be longer than 0s")
        return value


class LimitSettings(Section):
    """What clients may take of the mirror."""

    connections: Annotated[int, Field(ge=16, le=1_000_000)] = 8192
    """Connections of clients. Above it the one that is idle longest goes."""
    head: Duration = 15.0
    """For the head of a request to arrive, once the connection is there."""
    head_size: Size = 8190
    """Bytes of a request line or of one header."""
    idle: Duration = 75.0
    """Between two requests on a connection."""
    unread: Duration = 300.0
    """Without a byte taken by a client that is being answered."""

    @field_validator("head", "idle", "unread")
    @classmethod
    def _is_positive(cls, value: float) -> float:
        if value <= 0:
            raise ValueError("must be longer than 0s")
        return value

    @field_validator("head_size")
    @classmethod
    def _is_enough(cls, value: int) -> int:
        if not 1024 <= value <= 2**20:
            raise ValueError("must be 1KiB to 1MiB")
        return value


class CredentialSettings(Section):
    """Where credentials come from that no upstream's section names."""

    docker_config: Path | None = None
    """A config.json as `docker login` writes it (auths, credHelpers, credsStore). It is found by the host of an
    upstream's address; changes are noticed within a second."""
    helper_timeout: Duration = 5.0
    """For a credential helper to answer. One that doesn't is taken for a failure, never for permission to ask as
    nobody."""


class UpstreamSettings(Section):
    """One registry: where it is, and whom the mirror pulls as."""

    url: str | None = None
    """Where it is: http:// or https://, a host, and perhaps a port and a path."""
    urls: tuple[str, ...] = ()
    """Instead of url: several ways to the same content, tried in this order. It is 404 if all of them say so. The
    credentials are for each of them."""
    default: bool = False
    """Whether requests go here that name no upstream. One upstream at most has it."""
    username: str | None = None
    """Whom to pull as."""
    password_file: Path | None = None
    """That user's password: a file, so that it is in no configuration and no process list. A new one is noticed."""
    credential_helper: str | None = None
    """Instead of both: a program, docker-credential-NAME, that tells the login; this is the NAME."""
    client_auth: Literal["mirror", "passthrough"] = "mirror"
    """"mirror" pulls with the mirror's credentials; "passthrough" asks upstream whether this client may pull, and as
    that client."""
    ca_file: Path | None = None
    """Authorities (PEM) instead of the system's."""
    certificate_file: Path | None = None
    """A certificate (PEM) to show to upstream."""
    key_file: Path | None = None
    """That certificate's private key (PEM)."""
    private_addresses: bool = False
    """Whether a public upstream may send the mirror on to loopback and private addresses."""
    connections: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Blobs that are fetched from it at once; others wait their turn."""

    @field_validator("url")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        return None if value is None else _address(value)

    @field_validator("urls")
    @classmethod
    def _are_addresses(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_address, values))

    @field_validator("credential_helper")
    @classmethod
    def _is_helper(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
            raise ValueError("write what follows docker-credential- in the program's name, such as ecr-login")
        return value

    @model_validator(mode="after")
    def _is_whole(self) -> UpstreamSettings:
        if (self.url is None) == (not self.urls):
            raise ValueError("set url, or urls for several addresses that are tried in order")
        if self.username is not None and self.credential_helper is not None:
            raise ValueError("username and credential_helper are two ways to say one thing: set one of them")
        _together(self, "username", "password_file")
        return _together(self, "certificate_file", "key_file")

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it is to be had, in the order of trying."""
        return self.urls if self.url is None else (self.url,)


class LogSettings(Section):
    """What the log says, and how."""

    format: Literal["auto", "json", "console"] = "auto"
    """"json", "console", or "auto": console on a terminal, json otherwise."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """"debug", "info", "warning" or "error": the least that is said."""


def default_upstreams() -> dict[str, UpstreamSettings]:
    return {name: UpstreamSettings(url=url, default=name == DOCKER_HUB) for name, url in DEFAULT_UPSTREAMS.items()}


_Whole = TypeVar("_Whole", bound=Section)


def _together(section: _Whole, one: str, other: str) -> _Whole:
    """*section*, if it has both keys or none."""
    if (getattr(section, one) is None) != (getattr(section, other) is None):
        raise ValueError(f"{one} and {other} go together: set both or none")
    return section


def _address(url: str) -> str:
    if not _is_address(url):
        raise ValueError("an upstream's address is http:// or https://, a host and perhaps a port and a path")
    return url.rstrip("/")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return whole and parts.username is None and not (parts.query or parts.fragment or re.search(r"[^!-~]", url))
