"""Parts: a long stream of bytes in files of a bounded size, for sticks with FAT32 and for diodes.

Each file is written beside its name and renamed when it is whole, so that a name never stands for half of a part.
"""

from __future__ import annotations

import hashlib
import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from mirror.airgap.bundle_files import numbered, readable
from mirror.airgap.contents import Part
from mirror.errors import StorageFailed
from mirror.oci.digest import Digest
from mirror.storage.layout import storage_errors

_UNFINISHED = ".part"


class PartsWriter(io.RawIOBase):
    """A file to write to, in sequence, that is several; whole, and with their names, after its context.

    Leaving the context with an error removes what was begun.
    """

    def __init__(self, target: Path, *, limit: int | None) -> None:
        """*limit*: bytes of the largest part; None for all in one file, of the name *target*."""
        super().__init__()
        self._target = target
        self._limit = limit
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._size = 0
        self._written: list[tuple[Path, int, str]] = []

    def __enter__(self) -> Self:
        """Begins.

        Raises:
            StorageFailed: what is there is no file, or there can be none.
        """
        with storage_errors(f"{self._target} can't be written"):
            if not self._target.parent.is_dir():
                raise StorageFailed(f"{self._target} can't be written: there is no directory {self._target.parent}")
            for path in (self._target, *numbered(self._target.parent, self._target.name).values()):
                if path.exists() and not path.is_file():
                    raise StorageFailed(f"{path} is no file: name one for the bundle, which takes its place")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.finish()
                self._publish()
        finally:
            self._abandon()

    def writable(self) -> bool:
        return True

    def write(self, content: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]  # a narrower buffer
        """Writes all of *content*.

        Raises:
            StorageFailed: it can't be written; the message says where.
        """
        view = memoryview(content)
        while view:
            file = self._file or self._begin()
            piece = view if self._limit is None else view[: self._limit - self._size]
            with storage_errors(f"{self._name(len(self._written))} can't be written"):
                file.write(piece)
            self._hash.update(piece)
            self._size += len(piece)
            view = view[len(piece) :]
            if self._size == self._limit:
                self.finish()
        return len(content)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The files that were written; all of them when the last one is finished."""
        return tuple(Part(path.name, size, Digest("sha256", hashed)) for path, size, hashed in self._written)

    def _name(self, number: int) -> Path:
        return self._target if self._limit is None else self._target.with_name(f"{self._target.name}.{number + 1:03d}")

    def _begin(self) -> BinaryIO:
        path = self._name(len(self._written))
        with storage_errors(f"{path} can't be written"):
            self._file = open(f"{path}{_UNFINISHED}", "wb", buffering=2**20)  # noqa: SIM115 - it outlives the call
        return self._file

    def finish(self) -> None:
        """Ends the part that is being written. After the last one all parts are known, and none has its name yet.

        Raises:
            StorageFailed: it can't be written.
        """
        if self._file is None:
            return
        path = self._name(len(self._written))
        with storage_errors(f"{path} can't be written"):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        self._written.append((path, self._size, self._hash.hexdigest()))
        self._file, self._hash, self._size = None, hashlib.sha256(), 0

    def _publish(self) -> None:
        """Gives the parts their names; those of an earlier bundle of that name, which would be read as its own, go."""
        ours = [path for path, _, _ in self._written]
        for path in ours:
            with storage_errors(f"{path} can't be written"):
                os.replace(f"{path}{_UNFINISHED}", path)
        for path in self._earlier(len(ours)) - set(ours):
            with storage_errors(f"{path}, of an earlier bundle, can't be removed"):
                path.unlink(missing_ok=True)

    def _earlier(self, count: int) -> set[Path]:
        """The file, or the parts after so many, of an earlier bundle; other numbers, as of a year, are not in a row."""
        found, number = {self._target}, 1
        numbers = numbered(self._target.parent, self._target.name)
        while number <= count or number in numbers:
            found |= {numbers[number]} if number in numbers else set()
            number += 1
        return found

    def _abandon(self) -> None:
        """Removes what has no name yet."""
        if self._file is not None:
            with suppress(OSError):  # to close it is to write what is still held back, on a disk that is full
                self._file.close()
        for number in range(len(self._written) + 1):
            with suppress(OSError):
                os.unlink(f"{self._name(number)}{_UNFINISHED}")


class PartsReader(io.RawIOBase):
    """The bytes of several files, one after the other, as those of one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Opens all of them.

        Raises:
            BundleInvalid: one can't be read.
        """
        super().__init__()
        self._at = 0
        self._files: list[BinaryIO] = []
        self._starts: list[int] = []
        size = 0
        with ExitStack() as exits, readable(Path()):
            for path in paths:
                file = exits.enter_context(open(path, "rb", buffering=0))
                self._files.append(file)
                self._starts.append(size)
                size += os.fstat(file.fileno()).st_size
            self._exits = exits.pop_all()
        self._size = size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # a narrower buffer
        """Reads some bytes.

        Raises:
            BundleInvalid: a part can't be read.
        """
        if self._at >= self._size:
            return 0
        number = bisect_right(self._starts, self._at) - 1
        while number < len(self._files):  # a part of no bytes is passed over
            with readable(Path(self._files[number].name)):
                done = os.preadv(self._files[number].fileno(), [buffer], self._at - self._starts[number])
            if done:
                self._at += done
                return done
            number += 1
        return 0

    def close(self) -> None:
        self._exits.close()
        super().close()
