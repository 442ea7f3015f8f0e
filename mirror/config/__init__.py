"""Settings: embedded defaults, overridden by a TOML file, then `MIRROR_…` variables, then flags.

Each section is a frozen class, validated once at the start. An unknown key or an invalid value stops the start with
the path of the key, the value found and the values allowed.
"""

from mirror.config.loader import read_settings
from mirror.config.quantities import parse_duration, parse_size
from mirror.config.sections import (
    DEFAULT_UPSTREAMS,
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
