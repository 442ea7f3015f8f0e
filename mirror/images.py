"""Images: what of the cache has a name. Listed, pinned, removed, and collected as a whole.

An image is a tag, or a manifest that came by digest and that no tag of its repository reaches. What is pinned is held
like a blob that is being read: it is never evicted.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Self

from mirror.oci.digest import ALGORITHMS, Digest
from mirror.oci.images import Image
from mirror.oci.listings import subject_tag
from mirror.oci.manifest import Manifest
from mirror.oci.names import Repository, Tag
from mirror.oci.platforms import Platform
from mirror.policy import TagFact
from mirror.storage.catalog import Catalog
from mirror.storage.disk import DiskStore
from mirror.storage.ledger import DiskLedger


@dataclass(frozen=True, slots=True)
class Closure:
    """All that an image needs, as far as it is known here.

    Attributes:
        manifests: those that are stored; an index comes after its children.
        blobs: bytes of each blob that they need, stored or not (None where no manifest says).
        missing: what is not stored, but for the platforms of an index that nobody pulled.
    """

    root: Digest
    manifests: tuple[Manifest, ...]
    blobs: dict[Digest, int | None]
    missing: frozenset[Digest]

    @property
    def digests(self) -> Iterator[Digest]:
        """What is stored of it: blobs before the manifests that need them."""
        yield from (digest for digest in self.blobs if digest not in self.missing)
        yield from (manifest.digest for manifest in self.manifests)


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
        self._held = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._pinned = set(await self._ledger.pins())
        await self.hold_pinned()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._held.aclose()

    # What there is

    async def closure(self, image: Image) -> Closure | None:
        """All that the image needs; None where it is not here."""
        return (await self._closures([image])).get(image)

    async def _closures(self, images: Iterable[Image]) -> dict[Image, Closure]:
        """What each image needs, of those that are here."""
        found: dict[Image, Closure] = {}
        referrers = _Referrers(self._catalog, self._ledger, await self._tags())
        for image in images:
            root = await self._root(image)
            if root is not None:
                found[image] = await self._closure(image.repository, root, referrers)
            await asyncio.sleep(0)  # all of it may be in memory, and there may be thousands: others go on meanwhile
        return found

    async def _root(self, image: Image) -> Manifest | None:
        digest = image.reference
        if isinstance(digest, Tag):
            fact = await self._catalog.tag(image.repository, digest)
            if fact is None:
                return None
            digest = fact.digest
        held = await self._catalog.holds(image.repository, digest)
        return await self._catalog.manifest(digest) if held else None

    async def _closure(self, repository: Repository, root: Manifest, referrers: _Referrers) -> Closure:
        manifests: dict[Digest, Manifest] = {}
        blobs: dict[Digest, int | None] = {}
        missing: set[Digest] = set()

        async def take(manifest: Manifest) -> None:
            for one in manifest.references:
                child = await self._catalog.manifest(one.digest) if manifest.is_index else None
                if child is not None and child.digest not in manifests and child.digest != root.digest:
                    await take(child)
                elif not manifest.is_index:
                    blobs[one.digest] = self._store.size(one.digest) or one.size
                    if one.digest not in self._store:
                        missing.add(one.digest)
            manifests[manifest.digest] = manifest

        await take(root)
        for referrer in await referrers.of(repository, frozenset(manifests)):
            await take(referrer)
        return Closure(root.digest, tuple(manifests.values()), blobs, frozenset(missing))

    async def _tags(self) -> dict[Repository, dict[Tag, TagFact]]:
        found: dict[Repository, dict[Tag, TagFact]] = {}
        for (repository, tag), fact in (await self._ledger.all_tags()).items():
            found.setdefault(repository, {})[tag] = fact
        return found

    async def named(self) -> list[Image]:
        """All images: tags, and what came by digest and belongs to none of the others of its repository."""
        tags = await self._tags()
        found = [Image(repository, tag) for repository, ours in tags.items() for tag in ours if not _refers(tag)]
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

    async def _described(self, image: Image, closure: Closure, users: Counter[Digest]) -> StoredImage:
        sizes = {digest: self._store.size(digest) or 0 for digest in closure.digests}
        root = next(manifest for manifest in closure.manifests if manifest.digest == closure.root)
        here = {manifest.digest for manifest in closure.manifests}
        fact = await self._catalog.tag(image.repository, image.reference) if isinstance(image.reference, Tag) else None
        return StoredImage(
            image=image,
            digest=closure.root,
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
        self._pinned |= set(images)
        await self._write_pins()

    async def unpin(self, images: Iterable[Image]) -> None:
        self._pinned -= set(images)
        await self._write_pins()

    async def _write_pins(self) -> None:
        await self._ledger.keep_pins(self._pinned)
        await self.hold_pinned()

    async def hold_pinned(self) -> None:
        """Holds what the pinned images need now: a tag may have moved, a platform may have been pulled."""
        async with self._changing, AsyncExitStack() as held:
            for closure in (await self._closures(self._pinned)).values():
                for digest in closure.digests:
                    await held.enter_async_context(self._store.hold(digest))
            before, self._held = self._held, held.pop_all()
            await before.aclose()

    # Going

    async def remove(self, images: Iterable[Image]) -> int:
        """Forgets images, and removes what only they needed; what is being read or pinned stays.

        Returns:
            bytes that became free.
        """
        found = await self._closures(set(images))
        going, closures = list(found), list(found.values())
        await self.unpin(going)
        for image in going:
            if isinstance(image.reference, Tag):
                await self._catalog.drop_tag(image.repository, image.reference)
        tags = await self._tags()
        for image, closure in found.items():
            if closure.root not in {fact.digest for fact in tags.get(image.repository, {}).values()}:
                await self._catalog.drop_holding(image.repository, closure.root)
        kept = await self._needed()
        return await self._drop({digest for closure in closures for digest in closure.digests} - kept)

    async def collect(self) -> int:
        """Removes what no image needs: what tags named before they moved, and what was never part of one.

        Returns:
            bytes that became free.
        """
        for repository, roots in (await self._ledger.all_holdings()).items():
            tagged = {Image(repository, tag) for tag in (await self._tags()).get(repository, {})}
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


class _Referrers:
    """What refers to what: signatures, SBOMs, attestations. Made for one look at the images."""

    def __init__(self, catalog: Catalog, ledger: DiskLedger, tags: Mapping[Repository, Mapping[Tag, TagFact]]) -> None:
        self._catalog = catalog
        self._ledger = ledger
        self._tags = tags
        self._known: dict[Repository, dict[str, dict[Digest, Manifest]]] = {}

    async def of(self, repository: Repository, subjects: frozenset[Digest]) -> list[Manifest]:
        """What is stored of the repository and refers to one of *subjects*."""
        if repository not in self._known:
            self._known[repository] = await self._look(repository)
        known = self._known[repository]
        found = {digest: one for subject in subjects for digest, one in known.get(subject_tag(subject), {}).items()}
        return [manifest for digest, manifest in found.items() if digest not in subjects]

    async def _look(self, repository: Repository) -> dict[str, dict[Digest, Manifest]]:
        found: dict[str, dict[Digest, Manifest]] = defaultdict(dict)
        for tag, fact in self._tags.get(repository, {}).items():
            if _refers(tag) and (manifest := await self._catalog.manifest(fact.digest)) is not None:
                found[tag.text.partition(".")[0]][manifest.digest] = manifest
        for digest in await self._ledger.holdings(repository):
            manifest = await self._catalog.manifest(digest)
            if manifest is not None and manifest.subject is not None:
                found[subject_tag(manifest.subject)][digest] = manifest
        return found


def _refers(tag: Tag) -> bool:
    """Whether a tag is one of those that stand for a list of referrers, and is part of what it refers to."""
    algorithm, dash, rest = tag.text.partition("-")
    return bool(dash) and algorithm in ALGORITHMS and len(rest.partition(".")[0]) in {64, 128}
