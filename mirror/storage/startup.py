"""Startup scan: which blobs a cache directory holds, from the rows of the fact database and the names in blobs/.

A file whose size is known from a row is not inspected: opening it compares the size. So a start takes one SELECT, one
listing of each directory, and a `stat` of each file that has no row.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from mirror.oci.digest import ALGORITHMS, Digest
from mirror.storage.inventory import BlobTable
from mirror.storage.layout import Layout, storage_errors

_HEX_DIGITS = {"sha256": 64, "sha512": 128}
_HEX = re.compile("[0-9a-f]+")


@dataclass(slots=True)
class Scan:
    """One scan of a cache directory.

    Attributes:
        table: the blobs; complete after `read_directory`.
        absent: texts of digests that have a row, but no file.
        kept: bytes that interrupted downloads left in ingest/.
        identity: which directories these are.
    """

    table: BlobTable = field(default_factory=BlobTable)
    absent: list[str] = field(default_factory=list)
    kept: dict[Digest, int] = field(default_factory=dict)
    identity: object = None

    def add_row(self, name: str, size: int, used: float) -> None:
        """Add the row of a blob: the hex digits of its digest, its size and last use."""
        if name not in self.table.slots:
            self.table.append(name, size, used)

    def read_directory(self, layout: Layout) -> None:
        """Compare the rows with the files, and sort. Blocking: for a thread.

        Raises:
            StorageFailed: if the directory can't be read.
        """
        with storage_errors(f"the cache directory {layout.root} can't be read"):
            present = bytearray(len(self.table.slots) + 1)
            for algorithm in ALGORITHMS:
                self._read(f"{layout.root}/blobs/{algorithm}", _HEX_DIGITS[algorithm], present)
            self.identity, self.kept = layout.identity(), layout.kept_ingests()
        missing = [name for name, slot in self.table.slots.items() if slot < len(present) and not present[slot]]
        for name in missing:
            self.table.remove(name)
        self.absent = [f"{'sha256' if len(name) == 64 else 'sha512'}:{name}" for name in missing]
        self.table.sort()

    def _read(self, directory: str, length: int, present: bytearray) -> None:
        """Mark the files of one directory that have a row, and add the others. Other programs' files are ignored."""
        slots, new = self.table.slots, []
        with os.scandir(directory) as entries:
            for entry in entries:
                if len(entry.name) != length:
                    continue
                slot = slots.get(entry.name)
                if slot is not None:
                    present[slot] = entry.is_file(follow_symlinks=False)
                elif _HEX.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    new.append((entry.name, status.st_size, status.st_mtime))
        # The last one is written first, and rows are written several times faster in the order of their keys.
        for name, size, used in sorted(new, reverse=True):
            self.table.append_unwritten(name, size, used)
