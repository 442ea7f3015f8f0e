"""Writing a bundle: an OCI image layout (image-spec 1.1) in a tar, the same bytes for the same contents.

    oci-layout
    index.json                       the images, by name; not what is attached: one image alone needs no name elsewhere
    contents.json                    what is in here, and what the other side must have already
    manifest.json                    what docker load takes of it
    blobs/<algorithm>/<hex>          what an image needs stands before its manifest

Nothing of the time, the machine or the user gets in. Memory holds one buffer, whatever the size.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mirror.airgap.bundle_parts import PartsWriter
from mirror.airgap.contents import CarriedImage, Contents
from mirror.airgap.docker_archive import docker_manifest
from mirror.errors import StorageFailed
from mirror.oci.digest import Digest
from mirror.storage.layout import storage_errors

_BUFFER = 2**20
Opener = Callable[[Digest], AbstractContextManager[BinaryIO]]
"""Opens a stored blob for reading from its beginning."""


def write_bundle(
    target: Path,
    contents: Contents,
    open_blob: Opener,
    *,
    limit: int | None = None,
    advanced: Callable[[int], None] = lambda _: None,
) -> Contents:
    """Writes *contents* to *target*, and the list of them beside it, as `<target>.json`.

    Args:
        limit: bytes of the largest part, `<target>.001` and so on; None for one file.
        advanced: is told of blobs' bytes as they are written.

    Returns:
        the contents, with the parts that were written.

    Raises:
        StorageFailed: a stored blob is damaged or gone, or the bundle can't be written; then none is there.
    """
    with _list_beside(target) as listed, PartsWriter(target, limit=limit) as parts:
        with tarfile.open(fileobj=parts, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_BUFFER) as tar:
            _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            _add(tar, "index.json", _index(contents))
            _add(tar, "contents.json", Contents(contents.images, contents.blobs).text())
            for_docker = docker_manifest(contents, lambda digest: _all_of(digest, open_blob))
            if for_docker is not None:
                _add(tar, "manifest.json", for_docker)
            for blob in contents.blobs:
                if blob.included:
                    _add_blob(tar, blob.digest, blob.size, open_blob, advanced)
        parts.finish()
        whole = Contents(contents.images, contents.blobs, parts.parts)
        with storage_errors(f"{listed} can't be written"):
            listed.write_bytes(whole.text())
    return whole


@contextmanager
def _list_beside(target: Path) -> Iterator[Path]:
    """Where to write the list: it gets its name when the context ends, after the bundle has its own."""
    beside = target.with_name(f"{target.name}.json")
    begun = beside.with_name(f"{beside.name}.part")
    try:
        yield begun
        with storage_errors(f"{beside} can't be written"):
            begun.replace(beside)
    finally:
        with suppress(OSError):
            begun.unlink()


def _all_of(digest: Digest, open_blob: Opener) -> bytes:
    with open_blob(digest) as file, storage_errors(f"the blob {digest} can't be read"):
        return file.read()


def _index(contents: Contents) -> bytes:
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [_descriptor(image) for image in contents.images if not image.attached],
    }
    return json.dumps(index, separators=(",", ":")).encode()


def _descriptor(image: CarriedImage) -> dict[str, object]:
    found: dict[str, object] = {"mediaType": image.media_type, "digest": str(image.digest), "size": image.size}
    if "@" not in image.name:  # what has no tag has its digest for a name
        found["annotations"] = {
            "io.containerd.image.name": image.name,
            "org.opencontainers.image.ref.name": image.name,
        }
    return found


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o444
    return entry


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    tar.addfile(_entry(name, len(content)), io.BytesIO(content))


def _add_blob(
    tar: tarfile.TarFile, digest: Digest, size: int, open_blob: Opener, advanced: Callable[[int], None]
) -> None:
    with open_blob(digest) as file:
        source = _Watched(file, digest.algorithm, advanced)
        try:
            tar.addfile(_entry(f"blobs/{digest.algorithm}/{digest.hex}", size), source)
        except StorageFailed:
            raise
        except OSError as error:  # tarfile's word for a file that ends too early, among others
            raise StorageFailed(f"the blob {digest} can't be read whole: {error}") from error
    if source.hexdigest() != digest.hex:
        raise StorageFailed(f"the stored blob {digest} is damaged: run mirror verify --repair, then export again")


class _Watched(io.RawIOBase):
    """A file whose bytes are hashed and counted as they are read."""

    def __init__(self, file: BinaryIO, algorithm: str, advanced: Callable[[int], None]) -> None:
        super().__init__()
        self._file = file
        self._hash = hashlib.new(algorithm)
        self._advanced = advanced

    def read(self, size: int = -1, /) -> bytes:
        content = self._file.read(size)
        self._hash.update(content)
        self._advanced(len(content))
        return content

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
