"""Settings: embedded defaults, then a TOML file, then `MIRROR_…` variables, then flags.

One frozen section for each part, checked once at the start. A key that is unknown or a value that makes no sense
stops the start, with the key's path, what was found and what is allowed.
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
