"""All sections together, and the sources of their values."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from mirror.auth.rules import can_match
from mirror.config.sections import (
    AccessRule,
    CacheSettings,
    ClientSettings,
    CredentialSettings,
    LimitSettings,
    LogSettings,
    ServerSettings,
    TagSettings,
    TimeoutSettings,
    UpstreamSettings,
    default_upstreams,
)
from mirror.oci.names import canonical_upstream


class _SectionVariables(EnvSettingsSource):
    """Variables that name a key of a section. MIRROR_CACHE belongs to --cache; it is not [cache] as JSON."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        _, key, is_complex = super().get_field_value(field, field_name)
        return None, key, is_complex


class Settings(BaseSettings):
    """All sections. Every key has a variable: `MIRROR_TAGS__FRESH_FOR=5m` sets `fresh_for` of `[tags]`."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="MIRROR_", env_nested_delimiter="__", hide_input_in_errors=True
    )

    server: ServerSettings = ServerSettings()
    clients: ClientSettings = ClientSettings()
    access: tuple[AccessRule, ...] = ()
    limits: LimitSettings = LimitSettings()
    cache: CacheSettings = Field(default_factory=CacheSettings)
    tags: TagSettings = TagSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    log: LogSettings = LogSettings()
    credentials: CredentialSettings = CredentialSettings()
    upstreams: dict[str, UpstreamSettings] = Field(default_factory=default_upstreams)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic-settings'
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (_SectionVariables(settings_cls), init_settings)

    @model_validator(mode="after")
    def _require_consistent_upstreams(self) -> Settings:
        canonical = [canonical_upstream(name) for name in self.upstreams]
        for name in self.upstreams:
            if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d{1,5})?", name):
                raise ValueError(f"upstreams.{name!r}: an upstream's name must be a host name, such as docker.io")
            if canonical.count(canonical_upstream(name)) > 1:
                raise ValueError(
                    f"upstreams.{name!r} is configured twice (docker.io and index.docker.io are the same upstream)"
                )
        passthrough = [name for name, upstream in self.upstreams.items() if upstream.client_auth == "passthrough"]
        for name in passthrough:
            if self.upstreams[name].username is not None or self.upstreams[name].credential_helper is not None:
                raise ValueError(
                    f'upstreams.{name!r}: client_auth = "passthrough" pulls as the client, but username and '
                    f"credential_helper pull as the mirror: set only one"
                )
            if self.upstreams[name].certificate_file is not None:
                raise ValueError(
                    f'upstreams.{name!r}: client_auth = "passthrough" pulls as the client, but certificate_file would '
                    f"authenticate every client as the mirror: set only one"
                )
        if passthrough and self.clients.users_file is not None:
            raise ValueError(
                f'upstreams.{passthrough[0]!r}: client_auth = "passthrough" passes a client\'s login to the '
                f"upstream, but clients.users_file checks it as a login of the mirror: set only one"
            )
        if self.clients.certificates_file is not None and self.server.certificate_file is None:
            raise ValueError(
                "clients.certificates_file: client certificates require TLS: "
                "set server.certificate_file and server.key_file too"
            )
        if sum(upstream.default for upstream in self.upstreams.values()) > 1:
            raise ValueError("upstreams: only one upstream can have default = true")
        return self

    @model_validator(mode="after")
    def _require_matching_rules(self) -> Settings:
        known = {canonical_upstream(name) for name in self.upstreams}
        for number, rule in enumerate(self.access, start=1):
            for pattern in rule.repositories:
                if not can_match(pattern, known):
                    raise ValueError(
                        f"[[access]] number {number}, repositories: {pattern!r} matches nothing: it must begin with a "
                        f"configured upstream or with *; write docker.io/library/alpine for alpine"
                    )
        return self

    @property
    def default_upstream(self) -> str | None:
        """The upstream of requests that name none; None if no upstream has `default = true`."""
        return next((name for name, upstream in self.upstreams.items() if upstream.default), None)
