"""Keeps index.json of the cache directory up to date: all images whose manifests are stored, with pins and imports.

An image is a tag, or a manifest that no tag of its repository names and no other manifest of it references.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from itertools import islice

from mirror.oci.digest import Digest
from mirror.oci.image_names import Image
from mirror.storage.facts import ManifestFact, TagFact
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
            StorageFailed: if index.json can't be written.
        """
        async with self._writing:
            if not await self._facts.is_rebuilt("names"):
                return False
            entries = await self._entries(pinned)
            await self._file.write_index(await asyncio.to_thread(render, entries))
            return True

    async def _entries(self, pinned: AbstractSet[Image]) -> list[IndexEntry]:
        tags = {Image(*name): fact for name, fact in (await self._facts.all_tags()).items()}
        held = {
            Image(repository, digest): fact
            for repository, facts in (await self._facts.all_held()).items()
            for digest, fact in facts.items()
            if fact.is_manifest
        }
        tagged = {Image(image.repository, fact.digest) for image, fact in tags.items()}
        images: dict[Image, Digest] = {image: fact.digest for image, fact in tags.items()}
        for image in pinned | (held.keys() - tagged):
            if isinstance(image.reference, Digest):
                images[image] = image.reference
        manifests = await self._manifests(images.values())
        children = {
            Image(image.repository, child)
            for image, digest in images.items()
            if digest in manifests
            for child in manifests[digest].references
        }
        imported = {image for image, fact in held.items() if fact.proof == "imported"}
        return [
            self._entry(image, digest, manifests[digest], tags.get(image), pinned, imported)
            for image, digest in images.items()
            if digest in manifests
            and digest in self._store
            and (image in tags or image in pinned or image not in children)
        ]

    async def _manifests(self, digests: Iterable[Digest]) -> dict[Digest, ManifestFact]:
        found: dict[Digest, ManifestFact] = {}
        waiting = iter(set(digests))
        while batch := list(islice(waiting, _BATCH)):
            found.update(await self._facts.manifests(batch))
        return found

    def _entry(
        self,
        image: Image,
        digest: Digest,
        manifest: ManifestFact,
        tag: TagFact | None,
        pinned: AbstractSet[Image],
        imported: AbstractSet[Image],
    ) -> IndexEntry:
        return IndexEntry(
            image=image,
            digest=digest,
            media_type=manifest.media_type,
            size=self._store.size(digest) or 0,
            checked=None if tag is None else tag.checked,
            is_pinned=image in pinned,
            is_imported=Image(image.repository, digest) in imported,
        )
