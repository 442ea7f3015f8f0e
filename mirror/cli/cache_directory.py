"""Commands that need an existing cache: check that the directory is a mirror's cache, and run a job on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from mirror.admin.client import AdminClient
from mirror.assembly import cache_files
from mirror.cli.environment import settings_in_force
from mirror.cli.programs import run_with_client
from mirror.config import Settings
from mirror.errors import ConfigurationInvalid

_Result = TypeVar("_Result")


def run_on_cache(config: Path | None, cache: Path | None, job: Callable[[AdminClient], Awaitable[_Result]]) -> _Result:
    """Run *job* with a client of the mirror of an existing cache, and return its result.

    Raises:
        ConfigurationInvalid: if the settings are wrong, or there is no such cache.
        MirrorError: if the job fails.
    """
    return run_with_client(settings_of_cache(config, cache), job)


def settings_of_cache(config: Path | None, cache: Path | None) -> Settings:
    """Return the settings in force, whose cache directory exists.

    Raises:
        ConfigurationInvalid: if the settings are wrong, or there is no such cache.
    """
    settings = settings_in_force(config, {"cache": {"path": cache}}, [])
    require_cache(settings.cache.path)
    return settings


def require_cache(directory: Path) -> None:
    """Require that a mirror made *directory*.

    Raises:
        ConfigurationInvalid: if the directory is missing, or not a mirror's cache.
    """
    if cache_files(directory).exist():
        return
    problem = "is not a cache: no mirror has stored anything there" if directory.exists() else "does not exist"
    raise ConfigurationInvalid(
        f"the cache directory {directory} {problem}; name another with --cache (serve, warm and import create one)"
    )
