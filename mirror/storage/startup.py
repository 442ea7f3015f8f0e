"""Startup scan: which blobs a cache directory holds, from the rows of the fact database and the names in blobs/.

A file with a row, which has its size, is not inspected: opening it compares the size. So a start takes one SELECT, one
listing of each directory, and a `stat` of each file that has no row.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from mirror.oci.digest import Digest
from mirror.storage.layout import Layout, storage_errors
from mirror.storage.lru_inventory import BlobTable, digest_of

_HEX_DIGITS = {"sha256": 64, "sha512": 128}
_HEX = re.compile("[0-9a-f]+")


@dataclass(slots=True)
class Scan:
    """One scan of a cache directory.

    Attributes:
        table: the blobs; complete after `read_directory`.
        absent: digests that have a row, but no file.
        kept: bytes that interrupted downloads left in ingest/.
        identity: device and inode of the directories.
    """

    table: BlobTable = field(default_factory=BlobTable)
    absent: list[Digest] = field(default_factory=list)
    kept: dict[Digest, int] = field(default_factory=dict)
    identity: tuple[tuple[int, int], ...] = ()

    def read_directory(self, layout: Layout) -> None:
        """Compare the rows with the files, and sort. Blocking: for a thread.

        Raises:
            StorageFailed: if the directory can't be read.
        """
        with storage_errors(f"the cache directory {layout.root} can't be read"):
            present = bytearray(len(self.table.slots) + 1)
            new = [
                blob
                for algorithm, length in _HEX_DIGITS.items()
                for blob in self._read(f"{layout.root}/blobs/{algorithm}", length, present)
            ]
            self.identity, self.kept = layout.identity(), layout.kept_ingests()
        absent = [name for name, slot in self.table.slots.items() if not present[slot]]
        self.absent = [digest_of(name) for name in absent]
        self.table.extend(new)
        # The last one is written first, and rows are written several times faster in the order of their keys.
        self.table.finish(absent, sorted((name for name, _, _ in new), reverse=True))

    def _read(self, directory: str, length: int, present: bytearray) -> Iterator[tuple[str, int, float]]:
        """Mark the files of one directory that have a row, and yield the others. Other programs' files are ignored."""
        slots = self.table.slots
        with os.scandir(directory) as entries:
            for entry in entries:
                name = entry.name
                slot = slots.get(name)
                if len(name) != length or not entry.is_file(follow_symlinks=False):
                    continue
                if slot is not None:
                    present[slot] = 1
                elif _HEX.fullmatch(name):
                    status = entry.stat(follow_symlinks=False)
                    yield name, status.st_size, status.st_mtime
