"""Image graphs: everything stored that an image needs, and its referrers (signatures, SBOMs, attestations)."""

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
    """Everything that an image needs, as far as it is known.

    Attributes:
        manifests: the stored ones; an index comes after its children.
        blobs: the bytes of each blob that they need, stored or not (None if no manifest states them).
        missing: the blobs that are not stored, without those of platforms that were never pulled.
        attached: the referrers, by the name under which each is found in the repository.
    """

    root: Manifest
    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    blobs: dict[Digest, int | None] = field(default_factory=dict)
    missing: set[Digest] = field(default_factory=set)
    attached: dict[Reference, Manifest] = field(default_factory=dict)

    @property
    def digests(self) -> Iterator[Digest]:
        """The digests that are stored: blobs before the manifests that need them."""
        yield from (digest for digest in self.blobs if digest not in self.missing)
        yield from self.manifests


class ImageGraphReader:
    """Builds image graphs. For one listing: tags are read once for each repository."""

    def __init__(self, store: BlobStore, catalog: Catalog) -> None:
        self._store = store
        self._catalog = catalog
        self._tags: dict[Repository, dict[str, dict[Reference, Digest]]] = {}

    async def of(self, image: Image) -> ImageGraph | None:
        """Return the graph of an image; None if the image is not stored."""
        root = await self._root(image)
        if root is None:
            return None
        graph = ImageGraph(root)
        waiting, searched = [root], set[Digest]()
        while waiting:
            await self._add(graph, waiting.pop())
            for subject in [one for one in graph.manifests if one not in searched]:  # an SBOM can have a signature
                searched.add(subject)
                found = await self._referring(image.repository, subject)
                graph.attached.update(found)
                waiting += [one for one in found.values() if one.digest not in graph.manifests]
        return graph

    async def _root(self, image: Image) -> Manifest | None:
        digest = image.reference
        if isinstance(digest, Tag):
            fact = await self._catalog.tag(image.repository, digest)
            if fact is None:
                return None
            digest = fact.digest
        held = await self._catalog.holds(image.repository, digest)
        return await self._catalog.manifest(digest) if held else None

    async def _add(self, graph: ImageGraph, manifest: Manifest) -> None:
        """Add a manifest after the content that it references, without recursion: an index may be nested deeply."""
        stack, seen = [manifest], {manifest.digest}
        while stack:
            children = await self._children(stack[-1]) if stack[-1].is_index else []
            new = [one for one in children if one.digest not in seen and one.digest not in graph.manifests]
            if new:
                seen.update(one.digest for one in new)
                stack += new
                continue
            one = stack.pop()
            graph.manifests[one.digest] = one
            if not one.is_index:
                self._add_blobs(graph, one)

    async def _children(self, index: Manifest) -> list[Manifest]:
        found = [await self._catalog.manifest(one.digest) for one in index.references]
        return [child for child in found if child is not None]

    def _add_blobs(self, graph: ImageGraph, manifest: Manifest) -> None:
        for one in manifest.references:
            graph.blobs[one.digest] = self._store.size(one.digest) or one.size
            if one.digest not in self._store:
                graph.missing.add(one.digest)

    async def _referring(self, repository: Repository, subject: Digest) -> dict[Reference, Manifest]:
        """Return the stored referrers of *subject* in the repository, in the order of their names."""
        if repository not in self._tags:
            self._tags[repository] = await self._referrer_tags(repository)
        named = self._tags[repository].get(subject_tag(subject), {})
        found = {name: await self._catalog.manifest(digest) for name, digest in named.items()}
        found |= {one.digest: one for one in await self._catalog.referrers(repository, subject)}
        return {name: one for name, one in sorted(found.items(), key=lambda item: str(item[0])) if one is not None}

    async def _referrer_tags(self, repository: Repository) -> dict[str, dict[Reference, Digest]]:
        found: dict[str, dict[Reference, Digest]] = defaultdict(dict)
        for tag, fact in (await self._catalog.tags(repository)).items():
            if is_referrers_tag(tag):
                found[tag.text.partition(".")[0]][tag] = fact.digest
        return found


def is_referrers_tag(tag: Tag) -> bool:
    """Return whether a tag follows the referrers tag schema, and so names a part of another image."""
    algorithm, dash, rest = tag.text.partition("-")
    return bool(dash) and algorithm in ALGORITHMS and len(rest.partition(".")[0]) in {64, 128}


def is_attached(reference: Reference, manifest: Manifest) -> bool:
    """Return whether a manifest with this name is a referrer, and not an image of its own."""
    return is_referrers_tag(reference) if isinstance(reference, Tag) else manifest.subject is not None
