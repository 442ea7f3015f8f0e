"""A file of another program, put in place whole: with what was there kept beside it, its owner and its mode."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from mirror.errors import ClientConfigurationInvalid

_MODE = 0o644  # for a file that was not there: whom it is for reads it as another user


class ClientFile:
    """A place below a root directory: `/` is this machine, another one an image that is being made."""

    def __init__(self, root: Path, path: str) -> None:
        """
        Raises:
            ClientConfigurationInvalid: a symbolic link leads out of the root.
        """
        self.name = root / path.lstrip("/")
        self._root = root.resolve()
        self._file = self.name.resolve()  # where it is a link, what it leads to is written
        if not self._file.is_relative_to(self._root):
            raise ClientConfigurationInvalid(f"{self.name} is a link that leads out of {root}, to {self._file}")

    def read(self) -> str | None:
        """What it says; None where there is no such file.

        Raises:
            ClientConfigurationInvalid: it can't be read.
        """
        try:
            return self._file.read_bytes().decode()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise ClientConfigurationInvalid(f"{self.name} is no UTF-8 text") from error
        except OSError as error:
            raise ClientConfigurationInvalid(f"{self.name} can't be read: {error.strerror}") from error

    def write(self, content: str, *, instead_of: str | None) -> Path | None:
        """Puts *content* there, all at once.

        Args:
            instead_of: what was read; if somebody wrote something else meanwhile, that stays.

        Returns:
            where it is kept what was there before; None where nothing was.

        Raises:
            ClientConfigurationInvalid: it can't be written. Nothing is changed then.
        """
        if self.read() != instead_of:
            raise ClientConfigurationInvalid(f"{self.name} was changed meanwhile: run the command again")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            backup = None if instead_of is None else self._keep(instead_of)
            self._replace(self._file, content)
        except OSError as error:
            raise ClientConfigurationInvalid(
                f"{self.name} can't be written: {error.strerror}; nothing is changed (are you root?)"
            ) from error
        return backup

    def _keep(self, content: str) -> Path:
        """A copy beside it, with a name of its own."""
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        stem = f"{self._file.name}.bak-{moment}"
        names = (self._file.with_name(stem if not number else f"{stem}.{number}") for number in range(1000))
        backup = next(name for name in names if not os.path.lexists(name))
        self._replace(backup, content)
        return backup

    def _replace(self, file: Path, content: str) -> None:
        """Writes *file* with the owner and mode of the one that is there: whoever may not read that, may not this."""
        descriptor, fresh = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with open(descriptor, "wb") as sink:
                sink.write(content.encode())
                sink.flush()
                self._take_after(sink.fileno())
                os.fsync(sink.fileno())
            os.replace(fresh, file)
        except BaseException:
            with suppress(OSError):
                os.unlink(fresh)
            raise
        directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _take_after(self, descriptor: int) -> None:
        try:
            there = os.stat(self._file)
        except FileNotFoundError:
            os.fchmod(descriptor, _MODE)
            return
        own = os.fstat(descriptor)
        if (own.st_uid, own.st_gid) != (there.st_uid, there.st_gid):
            os.fchown(descriptor, there.st_uid, there.st_gid)
        os.fchmod(descriptor, there.st_mode & 0o7777)
