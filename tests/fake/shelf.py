"""A shelf: many images in one registry, made from a seed; layers are shared, and tags move."""

import itertools
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from tests.fake.content import Blob, Manifest, image_of, index
from tests.fake.registry import Registry

_KINDS = ((1, 200), (1_000, 60_000), (60_000, 300_000), (300_000, 1_500_000))  # bytes of a layer, from and to


@dataclass(frozen=True, slots=True)
class Naming:
    """What a tag names from a moment on (time.monotonic); None: there is no such tag any more."""

    digest: str | None
    since: float


class Shelf:
    """What a registry holds, and held before: every tag with all that it has ever named."""

    def __init__(self, registry: Registry, luck: random.Random, *, repositories: int, images: int) -> None:
        self.registry = registry
        self.blobs: dict[str, Blob] = {}
        self.manifests: dict[str, Manifest] = {}
        self.roots: dict[str, list[Manifest]] = {f"team/app{number}": [] for number in range(repositories)}
        self.tags: dict[tuple[str, str], list[Naming]] = {}
        self.holders: defaultdict[str, list[str]] = defaultdict(list)  # digest -> repositories
        self._luck = luck
        self._serials = itertools.count()
        self._kinds = itertools.cycle(_KINDS)
        bases = [self._layer() for _ in range(repositories * 2)]
        for repository in self.roots:
            for number in range(images):
                manifest = self._image(bases) if number % 3 else index(self._image(bases), self._image(bases))
                self._publish(repository, manifest)
                self.point(repository, f"v{number}", manifest)
        self._digests = {id(self.content(digest)): digest for digest in (*self.blobs, *self.manifests)}

    def _layer(self) -> Blob:
        least, most = next(self._kinds)
        return Blob.of(self._luck.randbytes(self._luck.randint(least, most)))

    def _image(self, bases: list[Blob]) -> Manifest:
        layers = [*self._luck.sample(bases, 2), *(self._layer() for _ in range(self._luck.randint(1, 2)))]
        return image_of(*layers, serial=next(self._serials))

    def _publish(self, repository: str, manifest: Manifest) -> None:
        self.registry.publish(repository, manifest)
        self.roots[repository].append(manifest)
        for one in below(manifest):
            self.manifests[one.digest] = one
            self.blobs.update((blob.digest, blob) for blob in one.blobs)
            for digest in (one.digest, *(blob.digest for blob in one.blobs)):
                if repository not in self.holders[digest]:
                    self.holders[digest].append(repository)

    @property
    def size(self) -> int:
        """Bytes of all blobs and manifests."""
        return sum(len(self.content(digest)) for digest in self.holders)

    def content(self, digest: str) -> bytes:
        """The bytes of a blob or a manifest."""
        return (self.manifests if digest in self.manifests else self.blobs)[digest].content

    def digests_of(self, content: bytes) -> list[str]:
        """The digest of these very bytes (not of their like), if they are a blob's or a manifest's here."""
        digest = self._digests.get(id(content))
        return [] if digest is None else [digest]

    def point(self, repository: str, tag: str, manifest: Manifest | None) -> None:
        """Let a tag name this manifest from now on; None: take the tag away."""
        digest = None if manifest is None else manifest.digest
        self.tags.setdefault((repository, tag), []).append(Naming(digest, time.monotonic()))
        tags = self.registry.repository(repository).tags
        if digest is None:
            tags.pop(tag, None)
        else:
            tags[tag] = digest

    def move(self) -> None:
        """Let some tag name another image of its repository."""
        repository, tag = self._luck.choice(list(self.tags))
        self.point(repository, tag, self._luck.choice(self.roots[repository]))

    def ever(self, repository: str, tag: str) -> set[str]:
        """All that a tag has named."""
        return {naming.digest for naming in self.tags[repository, tag] if naming.digest is not None}


def below(manifest: Manifest) -> Iterator[Manifest]:
    """A manifest, and those of its platforms."""
    yield manifest
    for child in manifest.children:
        yield from below(child)
