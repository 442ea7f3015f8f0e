"""Keeps index.json of the cache directory up to date: all images whose manifests are stored, with pins and imports.

An image is a tag, or a manifest that no tag of its repository names and no other manifest of it references.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import islice

from mirror.oci.digest import Digest
from mirror.oci.image_names import Image
from mirror.oci.names import Repository, Tag
from mirror.storage.facts import HeldFact, ManifestFact, TagFact
from mirror.storage.index_json import IndexEntry, render
from mirror.storage.protocols import BlobStore, FactStore, ImageIndexFile

_BATCH = 1000  # facts read at once: other readers wait for them


class ImageIndexWriter:
    """Writes the index.json of one cache directory."""

    def __init__(self, store: BlobStore, facts: FactStore, file: ImageIndexFile) -> None:
        self._store = store
        self._facts = facts
        self._file = file
        self._writing = asyncio.Lock()

    async def write(self, pinned: AbstractSet[Image]) -> bool:
        """Write all names. Return False, and write nothing, while a lost fact store is not restored from the file.

        Raises:
            StorageFailed: if the facts can't be read, or index.json can't be written.
        """
        async with self._writing:
            if not await self._facts.is_rebuilt("names"):
                return False
            entries = await self._entries(pinned)
            await self._file.write_index(await asyncio.to_thread(render, entries))
            return True

    async def _entries(self, pinned: AbstractSet[Image]) -> list[IndexEntry]:
        tags, held = await self._facts.all_tags(), await self._facts.all_held()
        # On a thread: a release with all its images takes a second.
        names = await asyncio.to_thread(_Names.of, tags, held, frozenset(pinned))
        manifests = await self._manifests(names.images.values())
        await asyncio.to_thread(names.remove_children, manifests)
        entries: list[IndexEntry] = []
        for number, (image, digest) in enumerate(names.images.items()):
            size = self._store.size(digest)
            if size is not None and digest in manifests:
                entries.append(
                    IndexEntry(
                        image=image,
                        digest=digest,
                        media_type=manifests[digest].media_type,
                        size=size,
                        checked=None if (tag := names.tags.get(image)) is None else tag.checked,
                        is_pinned=image in names.pinned,
                        is_imported=Image(image.repository, digest) in names.imported,
                    )
                )
            if number % _BATCH == 0:
                await asyncio.sleep(0)
        return entries

    async def _manifests(self, digests: Iterable[Digest]) -> dict[Digest, ManifestFact]:
        found: dict[Digest, ManifestFact] = {}
        waiting = iter(set(digests))
        while batch := list(islice(waiting, _BATCH)):
            found.update(await self._facts.manifests(batch))
        return found


@dataclass(frozen=True, slots=True)
class _Names:
    """The names of images.

    Attributes:
        images: the manifest of each.
    """

    images: dict[Image, Digest]
    tags: Mapping[Image, TagFact]
    pinned: AbstractSet[Image]
    imported: AbstractSet[Image]

    @classmethod
    def of(
        cls,
        tags: Mapping[tuple[Repository, Tag], TagFact],
        held: Mapping[Repository, Mapping[Digest, HeldFact]],
        pinned: AbstractSet[Image],
    ) -> _Names:
        """Return all tags, and all manifests that no tag names."""
        named = {Image(*name): fact for name, fact in tags.items()}
        manifests = {
            Image(repository, digest): fact
            for repository, facts in held.items()
            for digest, fact in facts.items()
            if fact.is_manifest
        }
        tagged = {Image(image.repository, fact.digest) for image, fact in named.items()}
        images: dict[Image, Digest] = {image: fact.digest for image, fact in named.items()}
        for image in pinned | (manifests.keys() - tagged):
            if isinstance(image.reference, Digest):
                images[image] = image.reference
        imported = {image for image, fact in manifests.items() if fact.proof == "imported"}
        return cls(images, named, pinned, imported)

    def remove_children(self, manifests: Mapping[Digest, ManifestFact]) -> None:
        """Remove the manifests that another one of their repository references, and that are not pinned."""
        children = {
            Image(image.repository, child)
            for image, digest in self.images.items()
            if digest in manifests
            for child in manifests[digest].references
        }
        for image in children & self.images.keys() - self.tags.keys() - self.pinned:
            del self.images[image]
