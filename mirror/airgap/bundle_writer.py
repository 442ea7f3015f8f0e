"""Bundle writer: an OCI image layout (image-spec 1.1) in a tar, reproducible byte for byte from the same contents.

    oci-layout
    index.json                       the images by name, without referrers: tools accept a single image without its name
    contents.json                    the list of contents, and the blobs that the destination must already have
    manifest.json                    the images that `docker load` can load
    blobs/<algorithm>/<hex>          the blobs of an image precede its manifest

The tar contains no times, host names or users. Writing needs the memory of one buffer, for any size.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
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
from mirror.storage.layout import storage_errors, sync_directory

_BUFFER = 2**20
Opener = Callable[[Digest], AbstractContextManager[BinaryIO]]
"""Opens a stored blob for reading from its beginning."""


def write_bundle(
    target: Path,
    contents: Contents,
    open_blob: Opener,
    *,
    limit: int | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Contents:
    """Write *contents* to the bundle *target*, and the list of contents to `<target>.json`.

    Args:
        limit: the maximum size in bytes of a part (`<target>.001` and so on); None to write a single file.
        on_progress: called with the number of blob bytes after each write.

    Returns:
        The contents, with the written parts.

    Raises:
        StorageFailed: if a stored blob is damaged or missing, or the bundle can't be written. No file is left then.
    """
    with _contents_file(target) as contents_file, PartsWriter(target, limit=limit) as parts:
        with tarfile.open(fileobj=parts, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_BUFFER) as tar:
            _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            _add(tar, "index.json", _index(contents))
            _add(tar, "contents.json", Contents(contents.images, contents.blobs).text())
            for_docker = docker_manifest(contents, lambda digest: _read(digest, open_blob))
            if for_docker is not None:
                _add(tar, "manifest.json", for_docker)
            for blob in contents.blobs:
                if blob.included:
                    _add_blob(tar, blob.digest, blob.size, open_blob, on_progress)
        parts.finish()
        whole = Contents(contents.images, contents.blobs, parts.parts)
        with storage_errors(f"{contents_file} can't be written"), contents_file.open("wb") as file:
            file.write(whole.text())
            file.flush()
            os.fsync(file.fileno())
    with storage_errors(f"the directory of {target} can't be synced"):
        sync_directory(target.parent)  # an export that is reported as done survives a power failure
    return whole


@contextmanager
def _contents_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path for the list of contents, renamed on exit, after the bundle has its final name."""
    final = target.with_name(f"{target.name}.json")
    temporary = final.with_name(f"{final.name}.part")
    try:
        yield temporary
        with storage_errors(f"{final} can't be written"):
            temporary.replace(final)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _read(digest: Digest, open_blob: Opener) -> bytes:
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
    if "@" not in image.name:  # an image without a tag is identified by its digest alone
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
    tar: tarfile.TarFile, digest: Digest, size: int, open_blob: Opener, on_progress: Callable[[int], None]
) -> None:
    with open_blob(digest) as file:
        source = _HashingReader(file, digest.algorithm, on_progress)
        try:
            tar.addfile(_entry(f"blobs/{digest.algorithm}/{digest.hex}", size), source)
        except StorageFailed:
            raise
        except OSError as error:  # tarfile also raises this if the file is shorter than its size
            raise StorageFailed(
                f"the blob {digest} can't be read completely: {error}; run mirror verify --repair"
            ) from error
    if source.hexdigest() != digest.hex:
        raise StorageFailed(f"the stored blob {digest} is damaged: run mirror verify --repair, then export again")


class _HashingReader(io.RawIOBase):
    """File object that hashes its bytes and reports progress as they are read."""

    def __init__(self, file: BinaryIO, algorithm: str, on_progress: Callable[[int], None]) -> None:
        super().__init__()
        self._file = file
        self._hash = hashlib.new(algorithm)
        self._on_progress = on_progress

    def read(self, size: int = -1, /) -> bytes:
        content = self._file.read(size)
        self._hash.update(content)
        self._on_progress(len(content))
        return content

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
