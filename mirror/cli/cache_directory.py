"""The cache that a command looks into, or tidies: it has to be there, and a mirror's."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from mirror.config import Settings, read_settings
from mirror.errors import ConfigurationInvalid
from mirror.storage.layout import Layout

_ABSENT = {errno.ENOENT, errno.ENOTDIR}


def settings_of_cache(config: Path | None, cache: Path | None) -> Settings:
    """The settings, of a cache that a mirror has made.

    Raises:
        ConfigurationInvalid: they make no sense, or there is no such cache.
    """
    settings = read_settings(config, {"cache": {"path": cache}}, [])
    check_cache(settings.cache.path)
    return settings


def check_cache(directory: Path) -> None:
    """Lets pass what a mirror has made. Others keep images in such directories as well, and lists no mirror reads.

    Raises:
        ConfigurationInvalid: nothing is there, or it is somebody else's.
    """
    layout = Layout(directory)
    if any(map(_is_there, (layout.ledger, layout.ingests, layout.control))):
        return
    what = "is no cache: no mirror has kept anything there" if _is_there(directory) else "is not there"
    raise ConfigurationInvalid(
        f"the cache directory {directory} {what}; name another with --cache (serve, warm and import make one)"
    )


def _is_there(path: Path) -> bool:
    """Whether it is; what can't be looked at is taken to be, for whoever opens it says what is wrong."""
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno not in _ABSENT
    return True
