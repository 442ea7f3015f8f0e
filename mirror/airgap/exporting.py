"""Export images of the cache into a bundle, without the blobs of an earlier bundle."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

from mirror.admin.client import AdminClient
from mirror.admin.protocol import ImageSelection
from mirror.airgap.archive import content, opened
from mirror.airgap.bundle_files import bundle_files
from mirror.airgap.bundle_writer import write_bundle
from mirror.airgap.contents import LARGEST, CarriedBlob, CarriedImage, Contents
from mirror.errors import BundleInvalid, ImageIncomplete, StorageFailed
from mirror.oci.digest import Digest
from mirror.storage.layout import storage_errors
from mirror.storage.protocols import CacheFiles


async def contents_of(
    client: AdminClient, selection: ImageSelection, *, known: frozenset[Digest] = frozenset()
) -> Contents:
    """Return the contents of a bundle with the selected images.

    Every bundle contains all manifests: they are small, and the importing side reads from them what an image needs.

    Args:
        known: blobs that the importing side has already.

    Raises:
        ImageIncomplete: if the selection is empty, or blobs of an image are missing in the cache.
    """
    graph = await client.graph(selection)
    for image in graph.incomplete:
        raise ImageIncomplete(
            f"{image.name} is incomplete in the cache, {len(image.missing) or 'all'} of its blobs are missing: "
            f"mirror warm {image.name}"
        )
    if not graph.images:
        raise ImageIncomplete("the export would be empty: name images, or give --pinned or --all")
    # The importing side needs an image before what is attached to it.
    images = sorted(graph.images, key=lambda image: (image.attached, image.name))
    return Contents(
        tuple(CarriedImage(one.name, one.digest, one.media_type, one.size, attached=one.attached) for one in images),
        tuple(CarriedBlob(one.digest, one.size) for one in graph.blobs),
    ).without(known - set(graph.manifests))


def known_from(earlier: Path) -> frozenset[Digest]:
    """Return the blobs that the importing side has from an earlier bundle, or from the .json file beside that.

    Raises:
        BundleInvalid: if the bundle or the file can't be read.
    """
    if earlier.suffix == ".json":
        try:
            text = earlier.read_bytes()
        except OSError as error:
            raise BundleInvalid(f"{earlier} can't be read: {error.strerror}") from error
    else:
        with opened(earlier) as archive:
            text = content(archive, "contents.json", limit=LARGEST)
    return frozenset(blob.digest for blob in Contents.parse(text, where=str(earlier)).blobs)


def require_apart(target: Path, earlier: Path) -> None:
    """Require that a bundle at *target* overwrites no file of the earlier bundle, which the new one builds on.

    Raises:
        StorageFailed: if it would, or if the files can't be inspected.
    """
    base = earlier.with_suffix("") if earlier.suffix == ".json" else earlier
    with storage_errors(f"{target} can't be written"):
        for file in bundle_files(target):
            for one in [earlier, *bundle_files(base)]:
                if file.exists() and one.exists() and file.samefile(one):
                    raise StorageFailed(
                        f"{file} can't be written: --since {earlier} builds on it, and the export would overwrite it; "
                        f"name another bundle with -o"
                    )


async def export_bundle(
    client: AdminClient,
    files: CacheFiles,
    contents: Contents,
    target: Path,
    *,
    limit: int | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Contents:
    """Write *contents* to *target*. The mirror keeps the blobs from eviction meanwhile.

    Args:
        files: the cache directory of the mirror that *client* talks to.
        limit: maximum size of a part of the bundle; None for one part.
        on_progress: called with the number of bytes of each write, in the writing thread.

    Raises:
        StorageFailed: if a blob is damaged, or the bundle can't be written.
    """
    stopped = threading.Event()

    def written(size: int) -> None:
        if stopped.is_set():  # a thread can't be cancelled: it would write the whole bundle
            raise StorageFailed("the export was stopped")
        on_progress(size)

    async with client.held(blob.digest for blob in contents.blobs):
        try:
            return await asyncio.to_thread(write_bundle, target, contents, files.open, limit=limit, on_progress=written)
        finally:
            stopped.set()
