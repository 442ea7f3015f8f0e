"""Import: store the images of a bundle in the cache. An image becomes visible only when it is complete."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from mirror.admin.client import AdminClient
from mirror.airgap.archive import opened
from mirror.airgap.bundle_reader import Bundle, read_bundle
from mirror.airgap.contents import CarriedImage
from mirror.airgap.unpack import UnpackDirectory
from mirror.errors import BundleInvalid, DigestMismatch, ImageIncomplete, MirrorError, SizeMismatch
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest

_CHUNK = 2**20
_MAX_DEPTH = 4  # index -> index -> manifest -> layer


@dataclass(frozen=True, slots=True)
class Imported:
    """Result of the import of one image.

    Attributes:
        failure: the error that prevented the import, if any.
        was: the manifest that the name referred to before, if it changed.
    """

    image: CarriedImage
    failure: MirrorError | None
    was: Digest | None = None


async def import_bundle(
    path: Path,
    control: AdminClient,
    *,
    name: str | None = None,
    unpack_directory: UnpackDirectory | None = None,
    on_total: Callable[[int], None] = lambda _: None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> AsyncIterator[Imported]:
    """Import the images of the bundle at *path*, one after the other. Blobs in the cache are not read again.

    Args:
        name: the name for the single image of an archive without names.
        unpack_directory: the directory to decompress a compressed archive into.
        on_total: called once with the size of all blobs.
        on_progress: called with the size of each blob after it is stored or found in the cache.

    Raises:
        BundleInvalid: if the bundle can't be read. Nothing is imported then.
    """
    stopped = threading.Event()

    def unpacking(_: int) -> None:
        if stopped.is_set():  # a thread can't be cancelled
            raise BundleInvalid("the import was stopped")

    with ExitStack() as exits:
        directory = None if unpack_directory is None else replace(unpack_directory, on_progress=unpacking)
        try:
            archive = await asyncio.to_thread(exits.enter_context, opened(path, directory))
            bundle = await asyncio.to_thread(read_bundle, archive)
        finally:
            stopped.set()
        on_total(sum(bundle.blobs.values()))
        stored: set[Digest] = set()
        for image in _named(bundle.images, name):
            try:
                was = await _import(bundle, image, control, stored, on_progress)
            except MirrorError as failure:
                yield Imported(image, _with_fix(failure, bundle))
            else:
                yield Imported(image, None, None if was == image.digest else was)


def _with_fix(failure: MirrorError, bundle: Bundle) -> MirrorError:
    fixes = {
        DigestMismatch.__name__: "copy the bundle again",
        SizeMismatch.__name__: "copy the bundle again",
        ImageIncomplete.__name__: (
            "import the earlier bundle that has it" if bundle.builds_on else "the archive does not contain it either"
        ),
    }
    fix = fixes.get(str(failure.detail.get("kind")))
    return failure if fix is None else BundleInvalid(f"{failure}: {fix}")


def _named(images: tuple[CarriedImage, ...], name: str | None) -> Iterator[CarriedImage]:
    """Yield the images with their names in the cache.

    Raises:
        BundleInvalid: if an image has no name, or *name* is given for several images.
    """
    nameless = [image for image in images if not image.name]
    if not images:
        raise BundleInvalid("the bundle has no image")
    if name is not None and len(images) == 1:
        yield CarriedImage(name, images[0].digest, images[0].media_type, images[0].size)
        return
    if name is not None or nameless:
        raise BundleInvalid(
            f"the bundle has {len(images)} images, {len(nameless)} of them without a name: "
            f"--name is only for an archive with a single image"
        )
    yield from images


async def _import(
    bundle: Bundle, image: CarriedImage, control: AdminClient, stored: set[Digest], on_progress: Callable[[int], None]
) -> Digest | None:
    """Import one image. Return the manifest that its name referred to before, if any."""
    manifests = await asyncio.to_thread(lambda: list(_manifests(bundle, image.digest, image.media_type)))
    if not manifests:
        raise BundleInvalid(f"the bundle lacks the manifest {image.digest} of {image.name}")
    needed = {one.digest: None for manifest in manifests if not manifest.is_index for one in manifest.references}
    own = needed.keys() | {manifest.digest for manifest in manifests}
    wanted = [
        digest for digest in bundle.blobs if digest in own
    ]  # in archive order: a compressed archive can't seek backwards
    async with control.held([*needed, *wanted]):
        for digest in wanted:
            if digest not in stored:
                await control.put(digest, bundle.blobs[digest], partial(_chunks, bundle, digest))
                on_progress(bundle.blobs[digest])
                stored.add(digest)
        lines = [f"{manifest.head.media_type or ''} {manifest.digest}" for manifest in manifests]
        kept = await control.post("/image", name=image.name, digest=str(image.digest), manifests=lines)
        return None if kept["was"] is None else Digest.parse(kept["was"])


def _manifests(bundle: Bundle, digest: Digest, media_type: str | None, depth: int = _MAX_DEPTH) -> Iterator[Manifest]:
    """Yield the manifest with *digest* after its children, as far as the bundle contains them."""
    manifest = bundle.manifest(digest, media_type)
    if manifest is None:
        return
    if manifest.is_index and depth:
        children = [
            one
            for child in manifest.references
            for one in _manifests(bundle, child.digest, child.media_type, depth - 1)
        ]
        if not children:
            raise BundleInvalid(f"the bundle has the index {digest}, but none of the manifests that it lists")
        yield from children
    yield manifest


async def _chunks(bundle: Bundle, digest: Digest) -> AsyncIterator[bytes]:
    file: BinaryIO = await asyncio.to_thread(bundle.open, digest)
    try:
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            yield chunk
    finally:
        file.close()
