"""Many generated images in one registry, from a seed; images share layers, and tags move."""

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
class TagState:
    """The target of a tag from a time on (time.monotonic); None: the tag is deleted."""

    digest: str | None
    since: float


class Shelf:
    """The content of a registry, with the history of every tag."""

    def __init__(self, registry: Registry, luck: random.Random, *, repositories: int, images: int) -> None:
        self.registry = registry
        self.blobs: dict[str, Blob] = {}
        self.manifests: dict[str, Manifest] = {}
        self.roots: dict[str, list[Manifest]] = {f"team/app{number}": [] for number in range(repositories)}
        self.tags: dict[tuple[str, str], list[TagState]] = {}
        self.holders: defaultdict[str, list[str]] = defaultdict(list)  # digest -> repositories
        self._rng = luck
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
        return Blob.of(self._rng.randbytes(self._rng.randint(least, most)))

    def _image(self, bases: list[Blob]) -> Manifest:
        layers = [*self._rng.sample(bases, 2), *(self._layer() for _ in range(self._rng.randint(1, 2)))]
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
        """Total bytes of all blobs and manifests."""
        return sum(len(self.content(digest)) for digest in self.holders)

    def content(self, digest: str) -> bytes:
        """Return the bytes of a blob or a manifest."""
        return (self.manifests if digest in self.manifests else self.blobs)[digest].content

    def digests_of(self, content: bytes) -> list[str]:
        """Return the digest of this very bytes object (compared by identity), if it is content of this shelf."""
        digest = self._digests.get(id(content))
        return [] if digest is None else [digest]

    def point(self, repository: str, tag: str, manifest: Manifest | None) -> None:
        """Point a tag at this manifest from now on; None: delete the tag."""
        digest = None if manifest is None else manifest.digest
        self.tags.setdefault((repository, tag), []).append(TagState(digest, time.monotonic()))
        tags = self.registry.repository(repository).tags
        if digest is None:
            tags.pop(tag, None)
        else:
            tags[tag] = digest

    def move(self) -> None:
        """Point a random tag at another image of its repository."""
        repository, tag = self._rng.choice(list(self.tags))
        self.point(repository, tag, self._rng.choice(self.roots[repository]))

    def ever(self, repository: str, tag: str) -> set[str]:
        """Return all digests that a tag has pointed at."""
        return {state.digest for state in self.tags[repository, tag] if state.digest is not None}


def below(manifest: Manifest) -> Iterator[Manifest]:
    """Yield a manifest and its platform manifests."""
    yield manifest
    for child in manifest.children:
        yield from below(child)
