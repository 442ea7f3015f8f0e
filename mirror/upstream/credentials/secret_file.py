"""Secret files: reloaded when they change, so that rotating a password needs no restart."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from mirror.errors import ConfigurationInvalid

_CHECK_INTERVAL = 1.0  # seconds between checks for a change
_MAX_SIZE = 2**20  # bytes

_Content = TypeVar("_Content")
_Version = tuple[int, int, int]  # of a file: inode, size, modification time
log = structlog.get_logger()


class SecretFile(Generic[_Content]):
    """Parsed content of a file. An invalid file prevents the start; later, the last valid content remains in use.

    Reads run in the event loop: these are small local files, checked at most once a second.
    """

    def __init__(
        self,
        key: str,
        path: Path,
        parse: Callable[[bytes], _Content],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read and parse the file.

        Args:
            key: the configuration key that names the file, for messages.
            parse: parses the content; raises ValueError, with a message that contains nothing of the content.

        Raises:
            ConfigurationInvalid: if the file can't be read or parsed.
        """
        self._key = key
        self._path = path
        self._parse = parse
        self._clock = clock
        self._version = self._stat()
        self._checked_at = clock()
        self._content = self._read()

    def content(self, *, at_once: bool = False) -> _Content:
        """Return the content, at most a second old. With *at_once*, check for a change now."""
        now = self._clock()
        if at_once or now - self._checked_at >= _CHECK_INTERVAL:
            self._checked_at = now
            self._reload()
        return self._content

    def _reload(self) -> None:
        version = self._stat()  # before reading: a write during the read is detected by the next check
        if version == self._version:
            return
        self._version = version
        try:
            self._content = self._read()
        except ConfigurationInvalid as error:
            log.warning("secret_file_broken", key=self._key, path=str(self._path), reason=str(error))
        else:
            log.info("secret_file_reloaded", key=self._key, path=str(self._path))

    def _stat(self) -> _Version | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        # A constant for pipes: they can be read only once, and a second read would block forever.
        return (found.st_ino, found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (0, 0, 0)

    def _read(self) -> _Content:
        try:
            with open(self._path, "rb") as file:
                content = file.read(_MAX_SIZE + 1)
        except OSError as error:
            raise ConfigurationInvalid(f"{self._key} {self._path} can't be read: {error.strerror}") from error
        if len(content) > _MAX_SIZE:
            raise ConfigurationInvalid(f"{self._key} {self._path} has more than {_MAX_SIZE} bytes: name another file")
        try:
            return self._parse(content)
        except ValueError as error:
            # No __cause__: the parser's exception may contain a secret.
            raise ConfigurationInvalid(f"{self._key} {self._path} can't be used: {error}") from None
