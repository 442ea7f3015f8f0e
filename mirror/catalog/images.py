"""Images in the cache: list, pin, unpin, remove, and garbage-collect them as a whole.

An image is a tag, or a manifest pulled by digest that no tag of its repository reaches. The blobs of a pinned image are
held like blobs that are being read: they are never evicted.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Self

import structlog

from mirror.catalog.catalog import Catalog
from mirror.catalog.image_graph import ImageGraph, ImageGraphReader, is_attached, is_referrers_tag
from mirror.catalog.index_writer import ImageIndexWriter
from mirror.errors import StorageFailed
from mirror.oci.digest import Digest
from mirror.oci.image_names import Image
from mirror.oci.manifest import Manifest
from mirror.oci.names import Repository, Tag
from mirror.oci.platforms import Platform
from mirror.storage.facts import TagFact
from mirror.storage.protocols import BlobStore, FactStore

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image and its state.

    Attributes:
        size: bytes of it that are stored.
        shared: of those, bytes that other images also need.
        checked: when the upstream last confirmed the tag (seconds since the epoch); None without a tag.
        used: when a blob of it was last pulled.
    """

    image: Image
    digest: Digest
    media_type: str
    platforms: tuple[Platform, ...]
    size: int
    shared: int
    is_complete: bool
    is_pinned: bool
    checked: float | None
    used: float


class Images:
    """The images in one store."""

    def __init__(self, store: BlobStore, catalog: Catalog, facts: FactStore, index: ImageIndexWriter) -> None:
        self._store = store
        self._catalog = catalog
        self._facts = facts
        self._index = index
        self._changing = asyncio.Lock()
        self._pinned: set[Image] = set()
        self._pins_are_lost = False  # whether the fact store lost its rows since they were read
        facts.listen(lambda _: None, self._note_lost_pins)
        self._held: dict[Image, AsyncExitStack] = {}

    async def __aenter__(self) -> Self:
        self._pinned = set(await self._facts.pins())
        await self.hold_pinned()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.save_changed()
        except StorageFailed as error:
            log.warning("index_not_written", reason=str(error))
        finally:
            await self._release(list(self._held))

    # Listing

    async def graph(self, image: Image) -> ImageGraph | None:
        """Return the image graph: everything that the image needs; None if the image is not stored."""
        return (await self._graphs([image])).get(image)

    async def _graphs(self, images: Iterable[Image]) -> dict[Image, ImageGraph]:
        """Return the image graphs of those images that are stored."""
        found: dict[Image, ImageGraph] = {}
        reader = ImageGraphReader(self._store, self._catalog)
        for image in images:
            graph = await reader.of(image)
            if graph is not None:
                found[image] = graph
            await asyncio.sleep(0)  # thousands of images may be in memory: let other tasks run
        return found

    async def users_of(self, digest: Digest) -> dict[Image, bool]:
        """Return the images that need *digest*, each with whether it is one of their manifests."""
        graphs = await self._graphs(await self.named())
        users = {image: digest in graph.manifests for image, graph in graphs.items() if digest in graph.manifests}
        return users | {image: False for image, graph in graphs.items() if digest in graph.blobs}

    async def _tags(self) -> dict[Repository, dict[Tag, TagFact]]:
        found: dict[Repository, dict[Tag, TagFact]] = {}
        for (repository, tag), fact in (await self._facts.all_tags()).items():
            found.setdefault(repository, {})[tag] = fact
        return found

    async def named(self) -> list[Image]:
        """Return all images: tags, and manifests pulled by digest that no other image of their repository reaches."""
        tags = await self._tags()
        found = [
            Image(repository, tag) for repository, ours in tags.items() for tag in ours if not is_referrers_tag(tag)
        ]
        for repository, held in (await self._facts.all_held()).items():
            roots = [digest for digest, fact in held.items() if fact.is_manifest]
            manifests = {digest: manifest for digest in roots if (manifest := await self._catalog.manifest(digest))}
            reached = {fact.digest for fact in tags.get(repository, {}).values()}
            reached |= {one.digest for manifest in manifests.values() for one in manifest.references}
            reached |= {manifest.digest for manifest in manifests.values() if manifest.subject is not None}
            found += [Image(repository, digest) for digest in manifests if digest not in reached]
        return sorted(set(found), key=str)

    async def matching(self, pattern: str) -> list[Image]:
        """Return the images whose full name matches a shell pattern."""
        return [image for image in await self.named() if fnmatchcase(str(image), pattern)]

    async def all(self) -> list[StoredImage]:
        """Return all stored images with their state."""
        graphs = await self._graphs(await self.named())
        users = Counter(digest for graph in graphs.values() for digest in set(graph.digests))
        return [await self._described(image, graph, users) for image, graph in graphs.items()]

    async def _described(self, image: Image, graph: ImageGraph, users: Counter[Digest]) -> StoredImage:
        sizes = {digest: self._store.size(digest) or 0 for digest in graph.digests}
        root, stored = graph.root, graph.manifests
        fact = await self._catalog.tag(image.repository, image.reference) if isinstance(image.reference, Tag) else None
        return StoredImage(
            image=image,
            digest=root.digest,
            media_type=root.head.media_type or "",
            platforms=tuple(
                one.platform for one in root.references if one.platform is not None and one.digest in stored
            ),
            size=sum(sizes.values()),
            shared=sum(size for digest, size in sizes.items() if users[digest] > 1),
            is_complete=not graph.missing,
            is_pinned=image in self._pinned,
            checked=None if fact is None else fact.checked,
            used=max((self._store.last_use(digest) or 0.0 for digest in sizes), default=0.0),
        )

    # Pins

    async def pin(self, images: Iterable[Image]) -> None:
        """Keep images from eviction, also after their tags move. When this returns, a power failure can't undo it.

        Raises:
            StorageFailed: if that could not be made durable.
        """
        chosen = set(images)
        self._pinned |= chosen
        for image in chosen:
            await self._facts.keep_pin(image)
        await self.hold(chosen)
        await self.save()

    async def keep_imported(self, image: Image, root: Manifest) -> None:
        """Pin an image that was imported; hold it if it is part of another. A power failure can't undo the import.

        Raises:
            StorageFailed: if that could not be made durable.
        """
        if is_attached(image.reference, root):
            await self.hold([image])
            await self.save()
        else:
            await self.pin([image])

    async def unpin(self, images: Iterable[Image]) -> None:
        """Allow the eviction of images. When this returns, a power failure can't undo it.

        Raises:
            StorageFailed: if that could not be made durable.
        """
        await self._unpin(set(images))
        await self.save()

    async def _unpin(self, chosen: set[Image]) -> None:
        dropped = chosen & self._pinned
        self._pinned -= dropped  # before the facts: an image that is pinned again meanwhile stays pinned
        for image in dropped:
            await self._facts.drop_pin(image)
        async with self._changing:
            await self._release(chosen)

    async def save(self) -> None:
        """Make names, rights and pins survive a power failure, and write them to index.json.

        Raises:
            StorageFailed: if the facts or index.json can't be written.
        """
        await self.sync()
        if not await self._write_index():
            raise StorageFailed(
                "the fact database was lost, and is being restored from index.json: run the command again in a minute"
            )

    async def sync(self) -> None:
        """Make names, rights and pins survive a power failure; maintenance writes them to index.json.

        Raises:
            StorageFailed: if the facts can't be written.
        """
        await self._facts.sync()

    async def save_changed(self) -> None:
        """Write index.json if an image, or its import, changed since it was written. For maintenance.

        Raises:
            StorageFailed: if index.json can't be written.
        """
        if self._catalog.names_changed:
            await self._write_index()

    async def _write_index(self) -> bool:
        """Return whether it was written: not while a lost fact store is not restored from it."""
        self._catalog.names_changed = False  # first: later changes may be missing in the file
        is_written = False
        try:
            is_written = await self._index.write(self._pinned)
        finally:
            self._catalog.names_changed |= not is_written
        return is_written

    def _note_lost_pins(self) -> None:
        self._pins_are_lost = True

    async def hold_pinned(self) -> None:
        """Hold the content of the pinned images: tags may have moved, other platforms may have been pulled.

        Raises:
            StorageFailed: if the fact store lost its rows, and the new ones can't be read.
        """
        if self._pins_are_lost:
            known = await self._facts.pins()
            for image in self._pinned - known:
                await self._facts.keep_pin(image)
            self._pinned |= known
            self._pins_are_lost = False
        await self.hold(self._pinned)
        async with self._changing:
            await self._release(self._held.keys() - self._pinned)

    async def hold(self, images: Iterable[Image]) -> None:
        """Hold the content that images need now; images that are not pinned only until `hold_pinned` is called."""
        async with self._changing:
            chosen = tuple(images)
            graphs = await self._graphs(chosen)
            for image in chosen:
                async with AsyncExitStack() as held:
                    for digest in graphs[image].digests if image in graphs else ():
                        await held.enter_async_context(self._store.hold(digest))
                    await self._release([image])
                    self._held[image] = held.pop_all()

    async def _release(self, images: Iterable[Image]) -> None:
        for image in tuple(images):
            held = self._held.pop(image, None)
            if held is not None:
                await held.aclose()

    # Removal

    async def remove(self, images: Iterable[Image]) -> int:
        """Remove images, and the blobs that only they need; held and pinned blobs stay.

        Returns:
            the bytes that became free.

        Raises:
            StorageFailed: if a blob can't be removed, or the removal not be made durable.
        """
        going = set(images)
        staying = [image for image in await self.named() if image not in going]
        found = await self._graphs(going)
        attached = {Image(image.repository, name) for image, graph in found.items() for name in graph.attached}
        await self._unpin(going | attached)
        for image in going:
            if isinstance(image.reference, Tag):
                await self._catalog.drop_tag(image.repository, image.reference)
        for image, graph in found.items():
            ours = await self._needed_by(one for one in staying if one.repository == image.repository)
            await self._forget(image.repository, graph, ours)
        kept = await self._needed_by(staying)
        freed = await self._drop({digest for graph in found.values() for digest in graph.digests} - kept)
        await self.save()
        return freed

    async def _forget(self, repository: Repository, graph: ImageGraph, kept: set[Digest]) -> None:
        """Delete the rights to the digests of an image, and the tags by which its referrers are found."""
        await self._catalog.drop_holdings(repository, set(graph.digests) - kept)
        for reference, manifest in graph.attached.items():
            if isinstance(reference, Tag) and manifest.digest not in kept:
                await self._catalog.drop_tag(repository, reference)

    async def collect(self) -> int:
        """Remove content that no image needs: manifests that tags named before they moved, and blobs of no image.

        Returns:
            the bytes that became free.

        Raises:
            StorageFailed: if a blob can't be removed, or the removal not be made durable.
        """
        started = time.time()
        await self.hold_pinned()
        tags = await self._tags()
        for repository, held in (await self._facts.all_held()).items():
            tagged = {Image(repository, tag) for tag in tags.get(repository, {})}
            if tagged:
                needed = await self._needed_by(tagged | {one for one in self._pinned if one.repository == repository})
                await self._catalog.drop_holdings(repository, held.keys() - needed)
        needed = await self._needed_by(await self.named())
        freed = 0
        async for digest in self._store.digests():
            if digest not in needed:
                freed += await self._store.discard(digest, unused_since=started)  # an image may have been pulled since
        await self.save()
        return freed

    async def _needed_by(self, images: Iterable[Image]) -> set[Digest]:
        graphs = await self._graphs(images)
        return {digest for graph in graphs.values() for digest in graph.digests}

    async def _drop(self, digests: Iterable[Digest]) -> int:
        return sum([await self._store.discard(digest) for digest in digests])
