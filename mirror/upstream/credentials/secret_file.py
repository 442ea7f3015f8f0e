"""Files with secrets: read anew when they changed, so that rotating a secret needs no restart."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from mirror.errors import ConfigurationInvalid

_UNSEEN_FOR = 1.0  # seconds at most in which a change goes unnoticed
_LARGEST = 2**20

_Content = TypeVar("_Content")
_Mark = tuple[int, int, int]  # tells one state of a file from another: inode, size, time of change
log = structlog.get_logger()


class SecretFile(Generic[_Content]):
    """What a file says. Broken when the mirror starts, it stops the start; broken later, what it said before holds.

    Looking at it takes no thread: these are small local files, and they are looked at once a second at most.
    """

    def __init__(
        self,
        key: str,
        path: Path,
        parse: Callable[[bytes], _Content],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads it.

        Args:
            key: of the configuration, under which it is named.
            parse: raises ValueError, which says what is wrong, and shows nothing of it.

        Raises:
            ConfigurationInvalid: it can't be read, or makes no sense.
        """
        self._key = key
        self._path = path
        self._parse = parse
        self._clock = clock
        self._mark = self._marked()
        self._looked = clock()
        self._content = self._read()

    def content(self, *, at_once: bool = False) -> _Content:
        """What it says, as of a second ago at most; as of now with *at_once*."""
        now = self._clock()
        if at_once or now - self._looked >= _UNSEEN_FOR:
            self._looked = now
            self._look()
        return self._content

    def _look(self) -> None:
        mark = self._marked()  # before reading: what is written meanwhile is seen next time
        if mark == self._mark:
            return
        self._mark = mark
        try:
            self._content = self._read()
        except ConfigurationInvalid as error:
            log.warning("secret_file_broken", key=self._key, path=str(self._path), reason=str(error))
        else:
            log.info("secret_file_read", key=self._key, path=str(self._path))

    def _marked(self) -> _Mark | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        # A pipe gives what it has once only; reading it again would wait for ever.
        return (found.st_ino, found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (0, 0, 0)

    def _read(self) -> _Content:
        try:
            with open(self._path, "rb") as file:
                content = file.read(_LARGEST + 1)
        except OSError as error:
            raise ConfigurationInvalid(f"{self._key} {self._path} can't be read: {error.strerror}") from error
        if len(content) > _LARGEST:
            raise ConfigurationInvalid(f"{self._key} {self._path} has more than {_LARGEST} bytes")
        try:
            return self._parse(content)
        except ValueError as error:
            # What the parser saw is no cause to show: it may be a secret.
            raise ConfigurationInvalid(f"{self._key} {self._path} can't be used: {error}") from None
