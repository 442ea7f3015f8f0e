"""Bundle parts: write a stream to several files of limited size, for FAT32 sticks and data diodes, and read it back.

Each file is written under a temporary name and renamed when complete, so a final name never refers to a partial file.
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
    """Write-only file object that splits its content into parts.

    On exit of the context, the parts get their final names. On an error, they are removed.
    """

    def __init__(self, target: Path, *, limit: int | None) -> None:
        """Create a writer of `<target>.001` and so on.

        Args:
            limit: the maximum size of a part in bytes; None to write a single file, *target*.
        """
        super().__init__()
        self._target = target
        self._limit = limit
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._size = 0
        self._written: list[tuple[Path, int, str]] = []

    def __enter__(self) -> Self:
        """Check that the target can be written.

        Raises:
            StorageFailed: if its directory is missing, or if a target path exists and is not a file.
        """
        with storage_errors(f"{self._target} can't be written"):
            if not self._target.parent.is_dir():
                raise StorageFailed(f"{self._target} can't be written: there is no directory {self._target.parent}")
            for path in (self._target, *numbered(self._target.parent, self._target.name).values()):
                if path.exists() and not path.is_file():
                    raise StorageFailed(f"{path} is not a file: name a file for the bundle to replace or create")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.finish()
                self._publish()
        finally:
            self._remove_temporary()

    def writable(self) -> bool:
        return True

    def write(self, content: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]  # a narrower buffer
        """Write all of *content*.

        Raises:
            StorageFailed: if a part can't be written; the message names it.
        """
        view = memoryview(content)
        while view:
            file = self._file or self._open_part()
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
        """The parts finished so far; all of them after the final `finish`."""
        return tuple(Part(path.name, size, Digest("sha256", sha256)) for path, size, sha256 in self._written)

    def _name(self, number: int) -> Path:
        return self._target if self._limit is None else self._target.with_name(f"{self._target.name}.{number + 1:03d}")

    def _open_part(self) -> BinaryIO:
        path = self._name(len(self._written))
        with storage_errors(f"{path} can't be written"):
            self._file = open(f"{path}{_UNFINISHED}", "wb", buffering=2**20)  # noqa: SIM115 - it outlives the call
        return self._file

    def finish(self) -> None:
        """Finish the current part and fsync it. Parts keep their temporary names until the context exits.

        Raises:
            StorageFailed: if the part can't be written.
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
        """Rename the parts to their final names, and remove the files of an earlier bundle of the same name.

        Otherwise a reader would take the earlier parts for parts of this bundle.
        """
        ours = [path for path, _, _ in self._written]
        for path in ours:
            with storage_errors(f"{path} can't be written"):
                os.replace(f"{path}{_UNFINISHED}", path)
        for path in self._earlier(len(ours)) - set(ours):
            with storage_errors(f"{path}, of an earlier bundle, can't be removed"):
                path.unlink(missing_ok=True)

    def _earlier(self, count: int) -> set[Path]:
        """Return the files of an earlier bundle: the single file, and parts numbered consecutively after *count*.

        A number out of sequence (such as a year) belongs to an unrelated file.
        """
        found, number = {self._target}, 1
        numbers = numbered(self._target.parent, self._target.name)
        while number <= count or number in numbers:
            found |= {numbers[number]} if number in numbers else set()
            number += 1
        return found

    def _remove_temporary(self) -> None:
        """Remove the files that still have a temporary name."""
        if self._file is not None:
            with suppress(OSError):  # close() writes buffered bytes, and the disk may be full
                self._file.close()
        for number in range(len(self._written) + 1):
            with suppress(OSError):
                os.unlink(f"{self._name(number)}{_UNFINISHED}")


class PartsReader(io.RawIOBase):
    """Read-only, seekable file object over the concatenation of several files."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Open all files.

        Raises:
            BundleInvalid: if a file can't be opened.
        """
        super().__init__()
        self._position = 0
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
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # a narrower buffer
        """Read up to `len(buffer)` bytes, all from one part, and return their number; 0 at the end.

        Raises:
            BundleInvalid: if a part can't be read.
        """
        if self._position >= self._size:
            return 0
        number = bisect_right(self._starts, self._position) - 1
        while number < len(self._files):  # skips empty parts
            with readable(Path(self._files[number].name)):
                done = os.preadv(self._files[number].fileno(), [buffer], self._position - self._starts[number])
            if done:
                self._position += done
                return done
            number += 1
        return 0

    def close(self) -> None:
        self._exits.close()
        super().close()
