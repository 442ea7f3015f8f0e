"""Read the mirror's cache directory from outside."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_HEX = {"sha256": 64, "sha512": 128}
_TOP = {"oci-layout", "index.json", "blobs", "ingest", "ledger", "ledger.damaged", "ledger.probe", "control.sock"}


@dataclass(frozen=True, slots=True)
class Contents:
    """The files of a cache at one moment."""

    blobs: Mapping[str, int]  # digest -> bytes
    ingests: Mapping[str, int]  # digest -> bytes received
    puts: tuple[str, ...]  # manifests being written
    strangers: tuple[str, ...]  # files that do not belong to the layout
    occupied: int  # bytes of all files in blobs/ and ingest/


class CacheDirectory:
    """The cache directory of a mirror."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = path / "ledger"

    def blob(self, digest: str) -> Path:
        """Return the path of a blob."""
        algorithm, _, name = digest.partition(":")
        return self.path / "blobs" / algorithm / name

    def contents(self) -> Contents:
        """Return the cache's files; consistent only while the mirror is idle, or has ended."""
        blobs: dict[str, int] = {}
        ingests: dict[str, int] = {}
        puts = []
        strangers = [name for name in os.listdir(self.path) if name not in _TOP]
        occupied = 0
        for path, size in self._files():
            occupied += size
            folder, name = os.path.relpath(os.path.dirname(path), self.path), os.path.basename(path)
            digest = _digest(
                f"{folder.removeprefix('blobs/')}:{name}" if folder != "ingest" else name.replace("-", ":")
            )
            if folder == "ingest" and re.fullmatch(r"put-\d+", name):
                puts.append(name)
            elif digest is None:
                strangers.append(f"{folder}/{name}")
            else:
                (ingests if folder == "ingest" else blobs)[digest] = size
        return Contents(blobs, ingests, tuple(puts), tuple(strangers), occupied)

    def occupied(self) -> int:
        """Return the bytes of all files in blobs/ and ingest/; consistent only while the mirror is idle."""
        return sum(size for _, size in self._files())

    def _files(self) -> Iterator[tuple[str, int]]:
        for part in ("blobs", "ingest"):
            for folder, _, names in os.walk(self.path / part):
                for name in names:
                    try:
                        yield f"{folder}/{name}", os.lstat(f"{folder}/{name}").st_size
                    except FileNotFoundError:
                        continue  # deleted after it was listed


def _digest(text: str) -> str | None:
    algorithm, _, name = text.partition(":")
    return text if re.fullmatch("[0-9a-f]+", name) and len(name) == _HEX.get(algorithm) else None
