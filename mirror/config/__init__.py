"""Settings: embedded defaults, overridden by a TOML file, then `MIRROR_…` variables, then flags.

Each section is a frozen class, validated once at the start. An unknown key or an invalid value stops the start with
the path of the key, the value found and the values allowed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.primitives.lazy import lazy_attributes

if TYPE_CHECKING:
    from mirror.config.default_upstreams import DEFAULT_UPSTREAMS
    from mirror.config.loader import read_settings
    from mirror.config.quantities import parse_duration, parse_size
    from mirror.config.sections import (
        AccessRule,
        CacheSettings,
        ClientSettings,
        CredentialSettings,
        LimitSettings,
        LogSettings,
        Section,
        ServerSettings,
        TagSettings,
        TimeoutSettings,
        UpstreamSettings,
        default_cache_path,
    )
    from mirror.config.settings import Settings

__all__ = [
    "DEFAULT_UPSTREAMS",
    "AccessRule",
    "CacheSettings",
    "ClientSettings",
    "CredentialSettings",
    "LimitSettings",
    "LogSettings",
    "Section",
    "ServerSettings",
    "Settings",
    "TagSettings",
    "TimeoutSettings",
    "UpstreamSettings",
    "default_cache_path",
    "parse_duration",
    "parse_size",
    "read_settings",
]

if not TYPE_CHECKING:
    _MODULES = {
        **dict.fromkeys(__all__, "sections"),
        "DEFAULT_UPSTREAMS": "default_upstreams",
        "Settings": "settings",
        "parse_duration": "quantities",
        "parse_size": "quantities",
        "read_settings": "loader",
    }
    __getattr__ = lazy_attributes(__name__, _MODULES)
