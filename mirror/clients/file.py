"""Atomic replacement of another program's file, with a backup, and with its owner and mode."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from mirror.errors import ClientConfigurationInvalid

_NEW_FILE_MODE = 0o644  # the client may run as another user


class ClientFile:
    """A file below a root directory: `/` for this machine, or the directory of a system image being built."""

    def __init__(self, root: Path, path: str) -> None:
        """Resolve *path* below *root*.

        Raises:
            ClientConfigurationInvalid: if a symbolic link leads out of the root.
        """
        self.name = root / path.lstrip("/")
        self._root = root.resolve()
        self._file = self.name.resolve()  # a symbolic link stays; its target is replaced
        if not self._file.is_relative_to(self._root):
            raise ClientConfigurationInvalid(
                f"{self.name} is a symbolic link that leads out of {root}, to {self._file}: replace it by a file"
            )

    def read(self) -> str | None:
        """Return the text of the file; None if it does not exist.

        Raises:
            ClientConfigurationInvalid: if it can't be read, or is not UTF-8.
        """
        try:
            return self._file.read_bytes().decode()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise ClientConfigurationInvalid(f"{self.name} is not UTF-8 text: correct it by hand") from error
        except OSError as error:
            raise ClientConfigurationInvalid(f"{self.name} can't be read: {error.strerror}") from error

    def write(self, content: str, *, instead_of: str | None) -> Path | None:
        """Replace the file with *content*, atomically.

        Args:
            instead_of: the text that was read. If the file has changed since, it stays unchanged.

        Returns:
            the path of the backup; None if there was no file.

        Raises:
            ClientConfigurationInvalid: if the file has changed or can't be written. Nothing is changed.
        """
        if self.read() != instead_of:
            raise ClientConfigurationInvalid(f"{self.name} changed in the meantime: run the command again")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            backup = None if instead_of is None else self._back_up(instead_of)
            self._replace(self._file, content)
        except OSError as error:
            raise ClientConfigurationInvalid(
                f"{self.name} can't be written: {error.strerror}; nothing was changed (root may be required)"
            ) from error
        return backup

    def _back_up(self, content: str) -> Path:
        """Write a copy beside the file, under an unused name."""
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        stem = f"{self._file.name}.bak-{moment}"
        names = (self._file.with_name(stem if not number else f"{stem}.{number}") for number in range(1000))
        backup = next(name for name in names if not os.path.lexists(name))
        self._replace(backup, content)
        return backup

    def _replace(self, file: Path, content: str) -> None:
        """Write *file* with the owner and mode of the existing file, so that it is readable to the same users only."""
        descriptor, fresh = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with open(descriptor, "wb") as sink:
                sink.write(content.encode())
                sink.flush()
                self._copy_owner_and_mode(sink.fileno())
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

    def _copy_owner_and_mode(self, descriptor: int) -> None:
        try:
            there = os.stat(self._file)
        except FileNotFoundError:
            os.fchmod(descriptor, _NEW_FILE_MODE)
            return
        own = os.fstat(descriptor)
        if (own.st_uid, own.st_gid) != (there.st_uid, there.st_gid):
            os.fchown(descriptor, there.st_uid, there.st_gid)
        os.fchmod(descriptor, there.st_mode & 0o7777)
