"""Bundle chains: numbered bundles in a directory (<name>-0001.tar, <name>-0002.tar), each with only the new content.

The lists of contents (`….tar.json`) record the content of the earlier bundles. They remain in the directory after the
bundles are moved away.
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
    """State of a chain: the content of all its bundles so far.

    Attributes:
        target: the path of the next bundle.
        known: blobs in earlier bundles, which the destination has.
        carried: the manifest of each image name in the earlier bundles.
    """

    target: Path
    known: frozenset[Digest]
    carried: dict[str, Digest]

    @classmethod
    def at(cls, directory: Path, name: str) -> BundleChain:
        """Read the chain *name* in *directory*, which may have no bundle yet.

        Raises:
            BundleInvalid: if one of its lists of contents is invalid.
            StorageFailed: if the directory can't be created or read.
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
        """Return whether *contents* has an image or a blob that no earlier bundle has."""
        moved = any(self.carried.get(image.name) != image.digest for image in contents.images)
        return moved or any(blob.digest not in self.known for blob in contents.blobs)


def _contents(path: Path) -> Contents:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BundleInvalid(f"{path} can't be read: {error.strerror}") from error
    return Contents.parse(text, where=str(path))
