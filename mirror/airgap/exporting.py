"""Export: write images of the cache to a bundle, without the blobs of an earlier bundle."""

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
    """Return the contents of a bundle of *images*.

    Manifests are always included: they are small, and the destination needs them to find an image's blobs.

    Args:
        which: "all" or "pinned" to add these images to the named ones.
        known: blobs that the destination has.

    Raises:
        ImageIncomplete: if a blob of an image is missing in the cache, or no image is selected.
    """
    found = await control.post("/closure", images=list(images), which=which)
    for name, missing in found["missing"].items():
        raise ImageIncomplete(
            f"{name} is incomplete in the cache, {len(missing) or 'all'} of its blobs are missing: mirror warm {name}"
        )
    if not found["images"]:
        raise ImageIncomplete("no image to export: name images, or set --pinned or --all")
    # Referrers come after the images to which they refer.
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
    """Return the blobs that the destination has, from an earlier bundle or its list of contents (`.json`).

    Raises:
        BundleInvalid: if *earlier* can't be read or is invalid.
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


def check_apart(target: Path, earlier: Path) -> None:
    """Check that writing a bundle to *target* overwrites no file of the *earlier* bundle.

    Raises:
        StorageFailed: if it would overwrite one, or that can't be determined.
    """
    base = earlier.with_suffix("") if earlier.suffix == ".json" else earlier
    with storage_errors(f"{target} can't be written"):
        for file in bundle_files(target):
            for one in [earlier, *bundle_files(base)]:
                if file.exists() and one.exists() and file.samefile(one):
                    raise StorageFailed(
                        f"{file} can't be overwritten: the new bundle builds on it (--since {earlier}); "
                        f"name another bundle with -o"
                    )


async def export_bundle(
    control: AdminClient,
    cache: Path,
    contents: Contents,
    target: Path,
    *,
    limit: int | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Contents:
    """Write a bundle with *contents* to *target*. The mirror keeps the blobs (a hold) until it is written.

    Args:
        control: the admin client of the mirror with the cache.
        cache: its cache directory.

    Raises:
        StorageFailed: if a blob is damaged, or the bundle can't be written.
    """
    layout, stopped = Layout(cache), threading.Event()

    def open_blob(digest: Digest) -> BinaryIO:
        with storage_errors(f"the blob {digest} can't be read"):
            return open(layout.blob(digest), "rb")

    def written(size: int) -> None:
        if stopped.is_set():  # a thread can't be cancelled; this ends it
            raise StorageFailed("the export was stopped")
        on_progress(size)

    async with control.held(blob.digest for blob in contents.blobs):
        try:
            return await asyncio.to_thread(write_bundle, target, contents, open_blob, limit=limit, on_progress=written)
        finally:
            stopped.set()
