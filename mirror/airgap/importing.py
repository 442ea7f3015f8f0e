"""Import the images of a bundle into the cache. Each image becomes visible when all of its blobs are stored."""

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
from mirror.admin.protocol import ImportedManifest, ImportRequest
from mirror.airgap.archive import opened
from mirror.airgap.bundle_reader import Bundle, read_bundle
from mirror.airgap.contents import CarriedImage
from mirror.airgap.unpack import UnpackDirectory
from mirror.errors import BundleInvalid, DigestMismatch, ImageIncomplete, IntegrityError, MirrorError, SizeMismatch
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest

_PIECE = 2**20
_DEEPEST = 4  # index -> index -> manifest -> layer
_DAMAGED = {error.__name__ for error in (IntegrityError, DigestMismatch, SizeMismatch)}


@dataclass(frozen=True, slots=True)
class Imported:
    """The outcome of the import of one image.

    Attributes:
        failure: why the image was not imported; None if it was.
        was: the manifest that the tag named before, if that was another one.
    """

    image: CarriedImage
    failure: MirrorError | None
    was: Digest | None = None


async def import_bundle(
    path: Path,
    client: AdminClient,
    *,
    name: str | None = None,
    unpack_directory: UnpackDirectory | None = None,
    on_total: Callable[[int], None] = lambda _: None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> AsyncIterator[Imported]:
    """Import the images of the bundle at *path*, one after the other. Blobs that the cache has are not read.

    Args:
        name: the name of the image, for an archive with one image and no name for it.
        unpack_directory: where a compressed bundle can be unpacked.
        on_total: called once, with the size of all blobs together.
        on_progress: called with the size of each blob that is imported or in the cache already.

    Raises:
        BundleInvalid: if the bundle can't be read at all; nothing of it was imported then.
    """
    stopped = threading.Event()

    def unpacking(_: int) -> None:
        if stopped.is_set():  # a thread can't be cancelled
            raise BundleInvalid("the import was stopped")

    with ExitStack() as exits:
        where = None if unpack_directory is None else replace(unpack_directory, on_progress=unpacking)
        try:
            archive = await asyncio.to_thread(exits.enter_context, opened(path, where))
            bundle = await asyncio.to_thread(read_bundle, archive)
        finally:
            stopped.set()
        on_total(sum(bundle.blobs.values()))
        imported: set[Digest] = set()
        for image in _named(bundle.images, name):
            try:
                was = await _import(bundle, image, client, imported, on_progress)
            except MirrorError as failure:
                yield Imported(image, _with_fix(failure, bundle))
            else:
                yield Imported(image, None, None if was == image.digest else was)


def _with_fix(failure: MirrorError, bundle: Bundle) -> MirrorError:
    """Return *failure* with its fix, if that depends on the bundle."""
    kind = failure.detail.get("kind")  # of an error of the mirror, the name of its class
    if kind in _DAMAGED:
        return BundleInvalid(f"{failure}: copy the bundle again")
    if kind == ImageIncomplete.__name__:
        if bundle.builds_on:
            return BundleInvalid(f"{failure}: import the earlier bundle that has it first")
        return BundleInvalid(
            f"{failure}, and the archive does not contain it: save the image again with all its layers"
        )
    return failure


def _named(images: tuple[CarriedImage, ...], name: str | None) -> Iterator[CarriedImage]:
    """Yield the images with the names that they get in the cache.

    Raises:
        BundleInvalid: if the bundle has no image, or an image gets no name.
    """
    nameless = [image for image in images if not image.name]
    if not images:
        raise BundleInvalid("the bundle contains no image: export one first")
    if name is not None and len(images) == 1:
        yield CarriedImage(name, images[0].digest, images[0].media_type, images[0].size)
        return
    if name is not None:
        raise BundleInvalid(f"--name works only for an archive with one image, and this one has {len(images)}: omit it")
    if len(images) == 1 and nameless:
        raise BundleInvalid("the image in the archive has no name: give it one, such as --name docker.io/org/app:1.0")
    if nameless:
        raise BundleInvalid(
            f"{len(nameless)} of the {len(images)} images in the archive have no name: save them with their names, or "
            f"each in an archive of its own, and import that with --name"
        )
    yield from images


async def _import(
    bundle: Bundle, image: CarriedImage, client: AdminClient, imported: set[Digest], on_progress: Callable[[int], None]
) -> Digest | None:
    """Import one image, and return the manifest that its tag named before."""
    manifests = await asyncio.to_thread(lambda: list(_manifests(bundle, image.digest, image.media_type)))
    if not manifests:
        raise BundleInvalid(f"the bundle lacks the manifest {image.digest} of {image.name}: export it again")
    needed = {one.digest: None for manifest in manifests if not manifest.is_index for one in manifest.references}
    own = needed.keys() | {manifest.digest for manifest in manifests}
    wanted = [digest for digest in bundle.blobs if digest in own]  # in the bundle's order: a compressed one can't seek
    async with client.held([*needed, *wanted]):
        for digest in wanted:
            if digest not in imported:
                await client.put_blob(digest, bundle.blobs[digest], partial(_pieces, bundle, digest))
                on_progress(bundle.blobs[digest])
                imported.add(digest)
        request = ImportRequest(
            name=image.name,
            digest=image.digest,
            manifests=tuple(ImportedManifest(digest=one.digest, media_type=one.head.media_type) for one in manifests),
        )
        return (await client.import_image(request)).previous


def _manifests(bundle: Bundle, digest: Digest, media_type: str | None, deep: int = _DEEPEST) -> Iterator[Manifest]:
    """Yield a manifest after its children, as far as the bundle contains them."""
    manifest = bundle.manifest(digest, media_type)
    if manifest is None:
        return
    if manifest.is_index and deep:
        children = [
            one for child in manifest.references for one in _manifests(bundle, child.digest, child.media_type, deep - 1)
        ]
        if not children:
            raise BundleInvalid(
                f"the bundle contains the index {digest}, but none of the manifests of that index: export it again"
            )
        yield from children
    yield manifest


async def _pieces(bundle: Bundle, digest: Digest) -> AsyncIterator[bytes]:
    file: BinaryIO = await asyncio.to_thread(bundle.open, digest)
    try:
        while piece := await asyncio.to_thread(file.read, _PIECE):
            yield piece
    finally:
        file.close()
