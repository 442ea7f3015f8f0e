"""Exporting: images out of the cache into a bundle, without what an earlier bundle brought."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from mirror.admin.client import AdminClient
from mirror.airgap.archive import content, opened
from mirror.airgap.bundle_files import bundle_files
from mirror.airgap.bundle_writer import write_bundle
from mirror.airgap.contents import LARGEST, CarriedBlob, CarriedImage, Contents
from mirror.errors import BundleInvalid, ImageIncomplete, StorageFailed
from mirror.oci.digest import Digest
from mirror.storage.layout import Layout, storage_errors


async def contents_of(
    control: AdminClient, images: Sequence[str], *, which: str | None, known: frozenset[Digest] = frozenset()
) -> Contents:
    """What a bundle of these images holds.

    Manifests come along always: they are small, and say there what an image needs.

    Args:
        known: what the other side has.
        which: "all" or "pinned", for those beside the named ones.

    Raises:
        ImageIncomplete: one of them is not whole in the cache.
    """
    found = await control.post("/closure", images=list(images), which=which)
    for name, missing in found["missing"].items():
        raise ImageIncomplete(
            f"{name} is not whole in the cache, {len(missing) or 'all'} of its blobs are missing: mirror warm {name}"
        )
    if not found["images"]:
        raise ImageIncomplete("nothing is to be exported: name images, or --pinned, or --all")
    # What is attached comes in after what it is attached to.
    carried = sorted(found["images"], key=lambda image: ("attached" in image, str(image["name"])))
    return Contents(
        tuple(
            CarriedImage(
                one["name"], Digest.parse(one["digest"]), one["mediaType"], one["size"], attached="attached" in one
            )
            for one in carried
        ),
        tuple(CarriedBlob(Digest.parse(digest), size) for digest, size in found["blobs"].items()),
    ).without(known - set(map(Digest.parse, found["manifests"])))


def known_from(earlier: Path) -> frozenset[Digest]:
    """The blobs that the other side has, after an earlier bundle: given itself, or by the list beside it.

    Raises:
        BundleInvalid
    """
    if earlier.suffix == ".json":
        try:
            text = earlier.read_bytes()
        except OSError as error:
            raise BundleInvalid(f"{earlier} can't be read: {error.strerror}") from error
    else:
        with opened(earlier) as archive:
            text = content(archive, "contents.json", most=LARGEST)
    return frozenset(blob.digest for blob in Contents.parse(text, where=str(earlier)).blobs)


def check_apart(target: Path, earlier: Path) -> None:
    """That a bundle at *target* takes the place of nothing that belongs to the earlier one.

    Raises:
        StorageFailed: it would: what the earlier one brought would be nowhere any more. Or that can't be known.
    """
    base = earlier.with_suffix("") if earlier.suffix == ".json" else earlier
    with storage_errors(f"{target} can't be written"):
        for file in bundle_files(target):
            for one in [earlier, *bundle_files(base)]:
                if file.exists() and one.exists() and file.samefile(one):
                    raise StorageFailed(
                        f"{file} can't be written: --since {earlier} builds on it, and it would be gone; "
                        f"name another bundle with -o"
                    )


async def export_bundle(
    control: AdminClient,
    cache: Path,
    contents: Contents,
    target: Path,
    *,
    limit: int | None = None,
    advanced: Callable[[int], None] = lambda _: None,
) -> Contents:
    """Writes *contents* to *target*.

    Args:
        cache: the directory of the mirror that *control* leads to; it holds the blobs for as long as this takes.

    Raises:
        StorageFailed: a blob is damaged, or the bundle can't be written.
    """
    layout, stopped = Layout(cache), threading.Event()

    def open_blob(digest: Digest) -> BinaryIO:
        with storage_errors(f"the blob {digest} can't be read"):
            return open(layout.blob(digest), "rb")

    def written(size: int) -> None:
        if stopped.is_set():  # a thread can't be cancelled, and would write on to the end
            raise StorageFailed("the export was stopped")
        advanced(size)

    async with control.held(blob.digest for blob in contents.blobs):
        try:
            return await asyncio.to_thread(write_bundle, target, contents, open_blob, limit=limit, advanced=written)
        finally:
            stopped.set()
