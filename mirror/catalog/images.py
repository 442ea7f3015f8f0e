"""Images: what of the cache has a name. Listed, pinned, removed, and collected as a whole.

An image is a tag, or a manifest that came by digest and that no tag of its repository reaches. What is pinned is held
like a blob that is being read: it is never evicted.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Self

from mirror.catalog.catalog import Catalog
from mirror.catalog.image_graph import ImageGraph, ImageGraphReader, stands_in
from mirror.oci.digest import Digest
from mirror.oci.image_names import Image
from mirror.oci.names import Repository, Tag
from mirror.oci.platforms import Platform
from mirror.storage.disk import DiskStore
from mirror.storage.facts import TagFact
from mirror.storage.ledger import DiskLedger


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image, and what there is to say of it.

    Attributes:
        size: bytes of it that are stored.
        shared: of those, bytes that other images have as well.
        checked: when upstream last confirmed the tag (seconds since the epoch); None for what came by digest.
        used: when something of it was last pulled.
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

    def __init__(self, store: DiskStore, catalog: Catalog, ledger: DiskLedger) -> None:
        self._store = store
        self._catalog = catalog
        self._ledger = ledger
        self._changing = asyncio.Lock()
        self._pinned: set[Image] = set()
        self._held: dict[Image, AsyncExitStack] = {}

    async def __aenter__(self) -> Self:
        self._pinned = set(await self._ledger.pins())
        await self.hold_pinned()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._release(list(self._held))

    # What there is

    async def closure(self, image: Image) -> ImageGraph | None:
        """All that the image needs; None where it is not here."""
        return (await self._closures([image])).get(image)

    async def _closures(self, images: Iterable[Image]) -> dict[Image, ImageGraph]:
        """What each image needs, of those that are here."""
        found: dict[Image, ImageGraph] = {}
        closures = ImageGraphReader(self._store, self._catalog)
        for image in images:
            closure = await closures.of(image)
            if closure is not None:
                found[image] = closure
            await asyncio.sleep(0)  # all of it may be in memory, and there may be thousands: others go on meanwhile
        return found

    async def _tags(self) -> dict[Repository, dict[Tag, TagFact]]:
        found: dict[Repository, dict[Tag, TagFact]] = {}
        for (repository, tag), fact in (await self._ledger.all_tags()).items():
            found.setdefault(repository, {})[tag] = fact
        return found

    async def named(self) -> list[Image]:
        """All images: tags, and what came by digest and belongs to none of the others of its repository."""
        tags = await self._tags()
        found = [Image(repository, tag) for repository, ours in tags.items() for tag in ours if not stands_in(tag)]
        for repository, roots in (await self._ledger.all_holdings()).items():
            manifests = {digest: manifest for digest in roots if (manifest := await self._catalog.manifest(digest))}
            reached = {fact.digest for fact in tags.get(repository, {}).values()}
            reached |= {one.digest for manifest in manifests.values() for one in manifest.references}
            reached |= {manifest.digest for manifest in manifests.values() if manifest.subject is not None}
            found += [Image(repository, digest) for digest in manifests if digest not in reached]
        return sorted(set(found), key=str)

    async def matching(self, pattern: str) -> list[Image]:
        """The images that *pattern* means: a whole name, or a shell's pattern of such."""
        return [image for image in await self.named() if fnmatchcase(str(image), pattern)]

    async def all(self) -> list[StoredImage]:
        """All images that are here, with what there is to say of them."""
        closures = await self._closures(await self.named())
        users = Counter(digest for closure in closures.values() for digest in set(closure.digests))
        return [await self._described(image, closure, users) for image, closure in closures.items()]

    async def _described(self, image: Image, closure: ImageGraph, users: Counter[Digest]) -> StoredImage:
        sizes = {digest: self._store.size(digest) or 0 for digest in closure.digests}
        root, here = closure.root, closure.manifests
        fact = await self._catalog.tag(image.repository, image.reference) if isinstance(image.reference, Tag) else None
        return StoredImage(
            image=image,
            digest=root.digest,
            media_type=root.head.media_type or "",
            platforms=tuple(one.platform for one in root.references if one.platform is not None and one.digest in here),
            size=sum(sizes.values()),
            shared=sum(size for digest, size in sizes.items() if users[digest] > 1),
            is_complete=not closure.missing,
            is_pinned=image in self._pinned,
            checked=None if fact is None else fact.checked,
            used=max((self._store.last_use(digest) or 0.0 for digest in sizes), default=0.0),
        )

    # Pins

    async def pin(self, images: Iterable[Image]) -> None:
        """Keeps images from eviction, whatever their tags name from now on."""
        chosen = set(images)
        self._pinned |= chosen
        await self._ledger.keep_pins(self._pinned)
        await self.hold(chosen)

    async def unpin(self, images: Iterable[Image]) -> None:
        chosen = set(images)
        self._pinned -= chosen
        await self._ledger.keep_pins(self._pinned)
        async with self._changing:
            await self._release(chosen)

    async def hold_pinned(self) -> None:
        """Holds what the pinned images need now: a tag may have moved, a platform may have been pulled."""
        await self.hold(self._pinned)
        async with self._changing:
            await self._release(self._held.keys() - self._pinned)

    async def hold(self, images: Iterable[Image]) -> None:
        """Holds what images need now; those that are not pinned until the pinned ones are looked at again."""
        async with self._changing:
            chosen = tuple(images)
            closures = await self._closures(chosen)
            for image in chosen:
                async with AsyncExitStack() as held:
                    for digest in closures[image].digests if image in closures else ():
                        await held.enter_async_context(self._store.hold(digest))
                    await self._release([image])
                    self._held[image] = held.pop_all()

    async def _release(self, images: Iterable[Image]) -> None:
        for image in tuple(images):
            held = self._held.pop(image, None)
            if held is not None:
                await held.aclose()

    # Going

    async def remove(self, images: Iterable[Image]) -> int:
        """Forgets images, and removes what only they needed; what is being read or pinned stays.

        Returns:
            bytes that became free.
        """
        going = set(images)
        staying = [image for image in await self.named() if image not in going]
        found = await self._closures(going)
        attached = {Image(image.repository, name) for image, closure in found.items() for name in closure.attached}
        await self.unpin(going | attached)
        for image in going:
            if isinstance(image.reference, Tag):
                await self._catalog.drop_tag(image.repository, image.reference)
        for image, closure in found.items():
            ours = await self._needed_by(one for one in staying if one.repository == image.repository)
            await self._forget(image.repository, closure, ours)
        kept = await self._needed_by(staying)
        return await self._drop({digest for closure in found.values() for digest in closure.digests} - kept)

    async def _forget(self, repository: Repository, closure: ImageGraph, kept: set[Digest]) -> None:
        """Forgets that manifests are the repository's own, and names that others refer to them by."""
        for digest in closure.manifests.keys() - kept:
            await self._catalog.drop_holding(repository, digest)
        for reference, manifest in closure.attached.items():
            if isinstance(reference, Tag) and manifest.digest not in kept:
                await self._catalog.drop_tag(repository, reference)

    async def collect(self) -> int:
        """Removes what no image needs: what tags named before they moved, and what was never part of one.

        Returns:
            bytes that became free.
        """
        await self.hold_pinned()
        tags = await self._tags()
        for repository, roots in (await self._ledger.all_holdings()).items():
            tagged = {Image(repository, tag) for tag in tags.get(repository, {})}
            if tagged:
                needed = await self._needed_by(tagged | {one for one in self._pinned if one.repository == repository})
                for digest in roots - needed:
                    await self._catalog.drop_holding(repository, digest)
        return await self._drop(set(self._store.digests()) - await self._needed())

    async def _needed(self) -> set[Digest]:
        return await self._needed_by(await self.named())

    async def _needed_by(self, images: Iterable[Image]) -> set[Digest]:
        closures = await self._closures(images)
        return {digest for closure in closures.values() for digest in closure.digests}

    async def _drop(self, digests: Iterable[Digest]) -> int:
        return sum([await self._store.discard(digest) for digest in digests])
