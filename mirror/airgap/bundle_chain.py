"""Chains of bundles in a directory: <name>-0001.tar, <name>-0002.tar, each with what those before have not.

What those before brought stands in the lists beside them (`….tar.json`), which stay when the bundles are carried away.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mirror.airgap.contents import Contents
from mirror.errors import BundleInvalid
from mirror.oci.digest import Digest
from mirror.storage.layout import storage_errors


@dataclass(frozen=True, slots=True)
class BundleChain:
    """What the bundles of a directory brought so far.

    Attributes:
        target: the next bundle.
        known: blobs that the other side has.
        carried: the manifest that each name stands for there.
    """

    target: Path
    known: frozenset[Digest]
    carried: dict[str, Digest]

    @classmethod
    def at(cls, directory: Path, name: str) -> BundleChain:
        """The chain of that name, which may have no link yet.

        Raises:
            BundleInvalid: one of its lists is broken.
            StorageFailed: the directory can't be made or read.
        """
        pattern = re.compile(rf"{re.escape(name)}-([0-9]+)\.tar\.json")
        with storage_errors(f"the directory for bundles {directory} can't be used"):
            directory.mkdir(parents=True, exist_ok=True)
            lists = {int(found[1]): path for path in directory.iterdir() if (found := pattern.fullmatch(path.name))}
        known, carried = set[Digest](), dict[str, Digest]()
        for _, path in sorted(lists.items()):
            contents = _contents(path)
            known.update(blob.digest for blob in contents.blobs)
            carried.update((image.name, image.digest) for image in contents.images)
        number = max(lists, default=0) + 1
        return cls(directory / f"{name}-{number:04d}.tar", frozenset(known), carried)

    def adds(self, contents: Contents) -> bool:
        """Whether the other side has not all of that yet."""
        moved = any(self.carried.get(image.name) != image.digest for image in contents.images)
        return moved or any(blob.digest not in self.known for blob in contents.blobs)


def _contents(path: Path) -> Contents:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BundleInvalid(f"{path} can't be read: {error.strerror}") from error
    return Contents.parse(text, where=str(path))
