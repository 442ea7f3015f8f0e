"""Importing: images out of a bundle into the cache, each of them visible when it is whole and not before."""

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
from mirror.errors import BundleInvalid, ImageIncomplete, IntegrityError, MirrorError
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest

_PIECE = 2**20
_DEEPEST = 4  # index -> index -> manifest -> layer


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of one image.

    Attributes:
        failure: why it is not there.
        was: what its name stood for until now, if that is something else.
    """

    image: CarriedImage
    failure: MirrorError | None
    was: Digest | None = None


async def import_bundle(
    path: Path,
    control: AdminClient,
    *,
    name: str | None = None,
    place: UnpackDirectory | None = None,
    expected: Callable[[int], None] = lambda _: None,
    advanced: Callable[[int], None] = lambda _: None,
) -> AsyncIterator[Imported]:
    """Brings in the images of the bundle at *path*, one after the other. What is here already is not read again.

    Args:
        name: for the one image of an archive that gives it none.
        place: where it can be unpacked if it is compressed.
        expected: is told the bytes of all blobs, once.
        advanced: is told of bytes as they are brought in, or found to be here.

    Raises:
        BundleInvalid: the bundle can't be read at all; nothing of it was brought in.
    """
    stopped = threading.Event()

    def unpacking(_: int) -> None:
        if stopped.is_set():  # a thread can't be cancelled
            raise BundleInvalid("the import was stopped")

    with ExitStack() as exits:
        where = None if place is None else replace(place, advanced=unpacking)
        try:
            archive = await asyncio.to_thread(exits.enter_context, opened(path, where))
            bundle = await asyncio.to_thread(read_bundle, archive)
        finally:
            stopped.set()
        expected(sum(bundle.blobs.values()))
        brought: set[Digest] = set()
        for image in _named(bundle.images, name):
            try:
                was = await _bring(bundle, image, control, brought, advanced)
            except MirrorError as failure:
                yield Imported(image, _with_cure(failure, bundle))
            else:
                yield Imported(image, None, None if was == image.digest else was)


def _with_cure(failure: MirrorError, bundle: Bundle) -> MirrorError:
    cures = {
        IntegrityError.__name__: "copy the bundle again",
        ImageIncomplete.__name__: (
            "bring in the earlier bundle that has it" if bundle.builds_on else "what was to be imported lacks it too"
        ),
    }
    cure = cures.get(str(failure.detail.get("kind")))
    return failure if cure is None else BundleInvalid(f"{failure}: {cure}")


def _named(images: tuple[CarriedImage, ...], name: str | None) -> Iterator[CarriedImage]:
    """The images with the names that they are to have here.

    Raises:
        BundleInvalid: one has none.
    """
    nameless = [image for image in images if not image.name]
    if not images:
        raise BundleInvalid("the bundle holds no image")
    if name is not None and len(images) == 1:
        yield CarriedImage(name, images[0].digest, images[0].media_type, images[0].size)
        return
    if name is not None or nameless:
        raise BundleInvalid(
            f"the bundle holds {len(images)} images, {len(nameless)} of them without a name: --name is for the one "
            f"image of an archive that gives it none"
        )
    yield from images


async def _bring(
    bundle: Bundle, image: CarriedImage, control: AdminClient, brought: set[Digest], advanced: Callable[[int], None]
) -> Digest | None:
    """What the image's name stood for."""
    manifests = await asyncio.to_thread(lambda: list(_manifests(bundle, image.digest, image.media_type)))
    if not manifests:
        raise BundleInvalid(f"the bundle does not hold the manifest {image.digest} of {image.name}")
    needed = {one.digest: None for manifest in manifests if not manifest.is_index for one in manifest.references}
    own = needed.keys() | {manifest.digest for manifest in manifests}
    wanted = [digest for digest in bundle.blobs if digest in own]  # as they lie there: compressed, it has no way back
    async with control.held([*needed, *wanted]):
        for digest in wanted:
            if digest not in brought:
                await control.put(digest, bundle.blobs[digest], partial(_pieces, bundle, digest))
                advanced(bundle.blobs[digest])
                brought.add(digest)
        lines = [f"{manifest.head.media_type or ''} {manifest.digest}" for manifest in manifests]
        kept = await control.post("/image", name=image.name, digest=str(image.digest), manifests=lines)
        return None if kept["was"] is None else Digest.parse(kept["was"])


def _manifests(bundle: Bundle, digest: Digest, media_type: str | None, deep: int = _DEEPEST) -> Iterator[Manifest]:
    """A manifest after its children, as far as they were carried."""
    manifest = bundle.manifest(digest, media_type)
    if manifest is None:
        return
    if manifest.is_index and deep:
        children = [
            one for child in manifest.references for one in _manifests(bundle, child.digest, child.media_type, deep - 1)
        ]
        if not children:
            raise BundleInvalid(f"the bundle holds the index {digest}, and none of the manifests that it names")
        yield from children
    yield manifest


async def _pieces(bundle: Bundle, digest: Digest) -> AsyncIterator[bytes]:
    file: BinaryIO = await asyncio.to_thread(bundle.open, digest)
    try:
        while piece := await asyncio.to_thread(file.read, _PIECE):
            yield piece
    finally:
        file.close()
