"""Closures: all that an image needs of what is stored, and what refers to it (signatures, SBOMs, attestations)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from mirror.catalog.catalog import Catalog
from mirror.oci.digest import ALGORITHMS, Digest
from mirror.oci.image_names import Image
from mirror.oci.listings import subject_tag
from mirror.oci.manifest import Manifest
from mirror.oci.names import Reference, Repository, Tag
from mirror.storage.protocols import BlobStore


@dataclass(frozen=True, slots=True)
class ImageGraph:
    """All that an image needs, as far as it is known here.

    Attributes:
        manifests: those that are stored; an index comes after its children.
        blobs: bytes of each blob that they need, stored or not (None where no manifest says).
        missing: what is not stored, but for the platforms of an index that nobody pulled.
        attached: what refers to it, by the name under which it is found in the repository.
    """

    root: Manifest
    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    blobs: dict[Digest, int | None] = field(default_factory=dict)
    missing: set[Digest] = field(default_factory=set)
    attached: dict[Reference, Manifest] = field(default_factory=dict)

    @property
    def digests(self) -> Iterator[Digest]:
        """What is stored of it: blobs before the manifests that need them."""
        yield from (digest for digest in self.blobs if digest not in self.missing)
        yield from self.manifests


class ImageGraphReader:
    """Finds them. Made for one look at the images."""

    def __init__(self, store: BlobStore, catalog: Catalog) -> None:
        self._store = store
        self._catalog = catalog
        self._tags: dict[Repository, dict[str, dict[Reference, Digest]]] = {}

    async def of(self, image: Image) -> ImageGraph | None:
        """All that the image needs; None where it is not here."""
        root = await self._root(image)
        if root is None:
            return None
        closure = ImageGraph(root)
        waiting, asked = [root], set[Digest]()
        while waiting:
            await self._take(closure, waiting.pop())
            for subject in [one for one in closure.manifests if one not in asked]:  # a signature of an SBOM comes too
                asked.add(subject)
                found = await self._referring(image.repository, subject)
                closure.attached.update(found)
                waiting += [one for one in found.values() if one.digest not in closure.manifests]
        return closure

    async def _root(self, image: Image) -> Manifest | None:
        digest = image.reference
        if isinstance(digest, Tag):
            fact = await self._catalog.tag(image.repository, digest)
            if fact is None:
                return None
            digest = fact.digest
        held = await self._catalog.holds(image.repository, digest)
        return await self._catalog.manifest(digest) if held else None

    async def _take(self, closure: ImageGraph, manifest: Manifest) -> None:
        """Takes a manifest in, after what it references; however deep an index is nested."""
        stack, seen = [manifest], {manifest.digest}
        while stack:
            children = await self._children(stack[-1]) if stack[-1].is_index else []
            new = [one for one in children if one.digest not in seen and one.digest not in closure.manifests]
            if new:
                seen.update(one.digest for one in new)
                stack += new
                continue
            one = stack.pop()
            closure.manifests[one.digest] = one
            if not one.is_index:
                self._take_blobs(closure, one)

    async def _children(self, index: Manifest) -> list[Manifest]:
        found = [await self._catalog.manifest(one.digest) for one in index.references]
        return [child for child in found if child is not None]

    def _take_blobs(self, closure: ImageGraph, manifest: Manifest) -> None:
        for one in manifest.references:
            closure.blobs[one.digest] = self._store.size(one.digest) or one.size
            if one.digest not in self._store:
                closure.missing.add(one.digest)

    async def _referring(self, repository: Repository, subject: Digest) -> dict[Reference, Manifest]:
        """What is stored of the repository and refers to *subject*; in the order of its names, the same everywhere."""
        if repository not in self._tags:
            self._tags[repository] = await self._standing_in(repository)
        named = self._tags[repository].get(subject_tag(subject), {})
        found = {name: await self._catalog.manifest(digest) for name, digest in named.items()}
        found |= {one.digest: one for one in await self._catalog.referrers(repository, subject)}
        return {name: one for name, one in sorted(found.items(), key=lambda item: str(item[0])) if one is not None}

    async def _standing_in(self, repository: Repository) -> dict[str, dict[Reference, Digest]]:
        found: dict[str, dict[Reference, Digest]] = defaultdict(dict)
        for tag, fact in (await self._catalog.tags(repository)).items():
            if stands_in(tag):
                found[tag.text.partition(".")[0]][tag] = fact.digest
        return found


def stands_in(tag: Tag) -> bool:
    """Whether a tag is one of those that stand for a list of referrers, and is part of what it refers to."""
    algorithm, dash, rest = tag.text.partition("-")
    return bool(dash) and algorithm in ALGORITHMS and len(rest.partition(".")[0]) in {64, 128}


def is_attached(reference: Reference, manifest: Manifest) -> bool:
    """Whether what has this name is part of what it refers to, and no image of its own."""
    return stands_in(reference) if isinstance(reference, Tag) else manifest.subject is not None
