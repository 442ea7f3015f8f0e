"""The sections of the configuration: one frozen class each, with the default of every key.

The docstring below a key is its text in docs/configuration.md and config/mirror.toml: `make reference` writes both.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from mirror.config.default_upstreams import DEFAULT_UPSTREAMS
from mirror.config.quantities import Duration, Size, parse_duration, parse_size
from mirror.oci.names import DOCKER_HUB

_LISTEN = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})")


def _require_positive(value: float) -> float:
    if value <= 0:
        raise ValueError("must be longer than 0s")
    return value


PositiveDuration = Annotated[Duration, AfterValidator(_require_positive)]


class Section(BaseModel):
    """A section of the settings. Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)


class ServerSettings(Section):
    """Listening address, TLS certificate and offline mode."""

    listen: str = "127.0.0.1:5000"
    """Address and port to listen on. The default accepts connections from this machine only, 0.0.0.0:5000 from all."""
    offline: bool = False
    """Never connect to an upstream. Serve cached content, and answer all other requests with 404."""
    certificate_file: Path | None = None
    """TLS certificate (PEM, with its chain). If set, the mirror serves HTTPS only. Read again on SIGHUP."""
    key_file: Path | None = None
    """Private key of the certificate (PEM). Read again on SIGHUP."""

    @model_validator(mode="after")
    def _require_tls_pair(self) -> ServerSettings:
        return _require_both_or_none(self, "certificate_file", "key_file")

    @field_validator("listen")
    @classmethod
    def _require_host_and_port(cls, value: str) -> str:
        found = _LISTEN.fullmatch(value)
        if found is None or int(found[3]) > 65535:
            raise ValueError("must be HOST:PORT, such as 127.0.0.1:5000, 0.0.0.0:5000 or [::1]:5000")
        return value

    @property
    def host(self) -> str:
        return self.listen.rpartition(":")[0].removeprefix("[").removesuffix("]")

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])

    @property
    def url(self) -> str:
        """The URL of the mirror, as seen from this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - the listening address
        scheme = "http" if self.certificate_file is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"


def default_cache_path() -> Path:
    """Return the mirror's directory below the user's cache directory (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "mirror"


class ClientSettings(Section):
    """Authentication of clients. With neither file set, every client that reaches the port may pull."""

    users_file: Path | None = None
    """Users and their passwords, in the format of `htpasswd -B` (bcrypt, cost 4 to 14). Read again on SIGHUP. If set,
    every endpoint except /healthz requires a login. Without TLS, passwords cross the network unencrypted."""
    certificates_file: Path | None = None
    """CA certificates (PEM). A client certificate signed by one of them is accepted instead of a login; its common name
    is the user name."""
    verdict_for: Duration = parse_duration("5m")
    """Time for which an upstream's permission to pull with a client's own login is cached (`client_auth =
    "passthrough"`). A refusal is cached for tags.missing_for."""


class AccessRule(Section):
    """Access rules: which users may pull from which repositories. The first rule that matches both decides. If there
    is any rule, a pull that no rule matches is denied.
    """

    users: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    """Globs of user names. "anonymous" is every client of a mirror whose [clients] section sets neither file."""
    repositories: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    """Globs of repositories (`*` also matches slashes). A repository always begins with its upstream, however the
    client spells it: docker.io/library/alpine."""
    allow: bool
    """Whether the rule allows or denies the pull."""


class CacheSettings(Section):
    """Location and size of the cache."""

    path: Path = Field(default_factory=default_cache_path)
    """Directory of the cache, an OCI image layout. The default is mirror/ below $XDG_CACHE_HOME or ~/.cache."""
    max_size: Size = Field(default=parse_size("50GiB"), gt=0)
    """Maximum size of all content together. The least recently used content is evicted first."""
    min_free: Size = parse_size("1GiB")
    """Minimum free space to leave on the file system of the cache, whatever else fills it."""
    scrub_rate: Size = parse_size("8MiB")
    """Bytes per second that the scrub reads to find content damaged on disk. 0 turns the scrub off."""


class TagSettings(Section):
    """Freshness of tags: when to revalidate, and how long to serve stale."""

    fresh_for: Duration = 60.0
    """Time for which a tag is served without asking the upstream whether it moved."""
    fresh_when_low: Duration = parse_duration("1h")
    """The same while the pull quota is low (the upstream's ratelimit-remaining, sent by Docker Hub, below a tenth)."""
    stale_for: Duration = parse_duration("30d")
    """Time for which a stale tag is still served while the upstream is unavailable."""
    missing_for: Duration = 5.0
    """Time for which an upstream's 404 is cached, and its refusal of a client's own login (`client_auth =
    "passthrough"`)."""


class TimeoutSettings(Section):
    """Inactivity time-outs. None of them limits the total transfer time: a large blob may take any time."""

    connect: PositiveDuration = 4.0
    """Time-out for a connection to an upstream."""
    first_byte: PositiveDuration = 8.0
    """Time-out for the first byte from an upstream, including redirects, tokens and a second try; with several urls,
    for all of them together."""
    silence: PositiveDuration = 30.0
    """Time without a byte in the middle of a download, after which the download is resumed."""
    shutdown: PositiveDuration = 30.0
    """Time that running pulls have to complete when the mirror stops."""


class LimitSettings(Section):
    """Limits on clients."""

    connections: Annotated[int, Field(ge=16, le=1_000_000)] = 8192
    """Maximum number of client connections. Above it, the connection that has been idle longest is closed."""
    head: PositiveDuration = 15.0
    """Time-out for receiving the head of a request."""
    head_size: Size = 8190
    """Maximum size of a request line or of one header."""
    idle: PositiveDuration = 75.0
    """Time after which a connection without a request is closed."""
    unread: PositiveDuration = 300.0
    """Time after which a connection is closed if the client accepts no byte of its response."""

    @field_validator("head_size")
    @classmethod
    def _require_head_size(cls, value: int) -> int:
        if not 1024 <= value <= 2**20:
            raise ValueError("must be between 1KiB and 1MiB")
        return value


class CredentialSettings(Section):
    """Logins for upstreams whose own section has none."""

    docker_config: Path | None = None
    """A config.json as `docker login` writes it (auths, credHelpers, credsStore). Its entries are looked up by the host
    of an upstream's URL. Changes take effect within a second."""
    helper_timeout: Duration = 5.0
    """Time-out for a credential helper. A helper that fails or times out fails the request; the mirror does not pull
    anonymously instead."""


class UpstreamSettings(Section):
    """One upstream: its URLs, its login and its TLS."""

    url: str | None = None
    """URL of the registry: http:// or https://, a host, and optionally a port and a path."""
    urls: tuple[str, ...] = ()
    """Instead of url: several URLs of the same content, tried in this order. The answer is 404 only if all of them
    answer 404. The login is sent to each of them."""
    default: bool = False
    """Whether requests that name no upstream go to this one. At most one upstream can be the default."""
    username: str | None = None
    """User name of the login for this upstream."""
    password_file: Path | None = None
    """File with the password of that user, which so appears in no configuration and no process list. Changes take
    effect within a second."""
    credential_helper: str | None = None
    """Instead of username and password_file: NAME of a credential helper, the program docker-credential-NAME."""
    client_auth: Literal["mirror", "passthrough"] = "mirror"
    """"mirror" pulls with the mirror's login. "passthrough" pulls with the client's own login, and serves a client only
    what the upstream lets that client pull."""
    ca_file: Path | None = None
    """CA certificates (PEM) to trust instead of the system's."""
    certificate_file: Path | None = None
    """Client certificate (PEM) for this upstream."""
    key_file: Path | None = None
    """Private key of the client certificate (PEM)."""
    private_addresses: bool = False
    """Whether redirects and token services of a public upstream may lead to loopback and private addresses."""
    connections: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Maximum number of blobs fetched from this upstream at the same time. Further blobs wait."""

    @field_validator("url")
    @classmethod
    def _require_url(cls, value: str | None) -> str | None:
        return None if value is None else _valid_url(value)

    @field_validator("urls")
    @classmethod
    def _require_urls(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_valid_url, values))

    @field_validator("credential_helper")
    @classmethod
    def _require_helper_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
            raise ValueError("must be the part after docker-credential- of the program's name, such as ecr-login")
        return value

    @model_validator(mode="after")
    def _require_consistency(self) -> UpstreamSettings:
        if (self.url is None) == (not self.urls):
            raise ValueError("set either url, or urls for several URLs that are tried in order")
        if self.username is not None and self.credential_helper is not None:
            raise ValueError("username and credential_helper exclude each other: set one of them")
        _require_both_or_none(self, "username", "password_file")
        return _require_both_or_none(self, "certificate_file", "key_file")

    @property
    def addresses(self) -> tuple[str, ...]:
        """The URLs of the upstream, in the order of trying."""
        return self.urls if self.url is None else (self.url,)


class LogSettings(Section):
    """Format and level of the log."""

    format: Literal["auto", "json", "console"] = "auto"
    """"json", "console", or "auto": console if standard error is a terminal, else json."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Minimum level of the logged events: "debug", "info", "warning" or "error"."""


def default_upstreams() -> dict[str, UpstreamSettings]:
    return {name: UpstreamSettings(url=url, default=name == DOCKER_HUB) for name, url in DEFAULT_UPSTREAMS.items()}


_Section = TypeVar("_Section", bound=Section)


def _require_both_or_none(section: _Section, one: str, other: str) -> _Section:
    """Return *section*. Raise ValueError if it has only one of the two keys."""
    if (getattr(section, one) is None) != (getattr(section, other) is None):
        raise ValueError(f"{one} and {other} require each other: set both or none")
    return section


def _valid_url(url: str) -> str:
    """Return *url* without trailing slashes. Raise ValueError if it is not the URL of a registry."""
    if not _is_valid_url(url):
        raise ValueError("must be a URL: http:// or https://, a host, and optionally a port and a path")
    return url.rstrip("/")


def _is_valid_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        is_complete = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return is_complete and parts.username is None and not (parts.query or parts.fragment or re.search(r"[^!-~]", url))
