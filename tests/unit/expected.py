"""A model of the store, with its readers and ingests, for comparison with the real one."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import NamedTuple

from mirror.oci.digest import Digest
from mirror.storage.blob import DiskBlob
from mirror.storage.ingest import DiskIngest
from tests.unit.contents import Content, layer, manifest

EMPTY = layer("empty", 0)
BASE = layer("base", 300)
TOP = layer("top", 120)
OTHER = layer("other", 200, "sha512")
APP = manifest("app", 40, BASE, TOP, EMPTY)
TOOL = manifest("tool", 50, BASE, OTHER)
INDEX = manifest("index", 60, APP, TOOL)
WORLD = {one.digest: one for one in (EMPTY, BASE, TOP, OTHER, APP, TOOL, INDEX, layer("large", 500), layer("tiny", 1))}


def weight(digest: Digest) -> int:
    return len(WORLD[digest].body)


@dataclass(eq=False)
class Reader:
    """A reader of a blob; `blob` is None if the store does not have it."""

    content: Content
    exits: AsyncExitStack
    blob: DiskBlob | None = None


@dataclass(eq=False)
class Arrival:
    """An open ingest."""

    content: Content
    exits: AsyncExitStack
    ingest: DiskIngest
    written: bytes
    reserved: int
    is_sized: bool = False


class Use(NamedTuple):
    """The steps of a blob's last use: of the last certain use, and of the last possible one."""

    certainly: int
    perhaps: int


@dataclass
class Expected:
    """The expected state of the store."""

    limit: int
    used: dict[Digest, Use] = field(default_factory=dict)  # stored blobs
    vanished: set[Digest] = field(default_factory=set)  # stored, then deleted from outside, and not yet noticed
    kept: dict[Digest, bytes] = field(default_factory=dict)  # bytes of interrupted ingests
    arriving: list[Arrival] = field(default_factory=list)
    held: Counter[Digest] = field(default_factory=Counter)
    step: int = 0

    @property
    def occupied(self) -> int:
        """Bytes of stored blobs, of interrupted ingests, and reserved bytes."""
        return sum(map(weight, self.used)) + self.left + sum(one.reserved for one in self.arriving)

    @property
    def left(self) -> int:
        return sum(map(len, self.kept.values()))

    @property
    def evictable(self) -> set[Digest]:
        """The blobs without a hold whose eviction would free space."""
        return {digest for digest in self.used if not self.held[digest] and weight(digest)}

    def can_have(self, size: int) -> bool:
        """Return whether *size* more bytes fit, after eviction if necessary."""
        return self.occupied + size - self.limit <= self.left + sum(map(weight, self.evictable))

    def use(self, content: Content, *, certainly: bool = True) -> None:
        """Record a use of a manifest and of all it references; a possible use if the manifest is not stored."""
        use = self.used.get(content.digest)
        if use is not None:
            self.used[content.digest] = Use(self.step if certainly else use.certainly, self.step)
        for one in content.references:
            self.use(one, certainly=certainly and use is not None)

    def store(self, content: Content) -> None:
        """Record a commit, which is followed by a use."""
        self.strike(content.digest)
        self.used[content.digest] = Use(self.step, self.step)
        self.use(content)

    def strike(self, digest: Digest) -> None:
        self.used.pop(digest, None)
        self.vanished.discard(digest)

    def miss(self, digest: Digest) -> None:
        """Record that a reader found a blob deleted from outside."""
        if digest in self.vanished:
            self.strike(digest)


@dataclass
class Space:
    """The state before a step that frees space, to check how much the step evicted."""

    used: dict[Digest, Use]
    evictable: set[Digest]
    excess: int
    possible: bool

    @classmethod
    def before(cls, expected: Expected, needs: int, *, may_evict: bool = True) -> Space:
        excess = expected.occupied + needs - expected.limit
        possible = expected.can_have(needs) if may_evict else excess <= 0
        return cls(dict(expected.used), expected.evictable, excess, possible)

    def check_dropped(self, sizes: list[int]) -> None:
        """Assert that no more interrupted ingests were deleted than necessary."""
        if sizes:
            assert sum(sizes) - max(sizes) < self.excess, "more was dropped than was needed"
            self.excess -= sum(sizes)

    def check_evicted(self, gone: set[Digest]) -> None:
        """Assert that no more blobs were evicted than necessary: the least recently used, and none with a hold."""
        if not gone:
            return
        assert self.possible, "blobs were evicted, although no eviction frees enough"
        assert gone <= self.evictable, "a held blob was evicted"
        latest = max(self.used[digest].certainly for digest in gone)
        older = [WORLD[digest] for digest in self.evictable - gone if self.used[digest].perhaps < latest]
        assert not older, f"evicted: {[WORLD[digest] for digest in gone]}; used less recently: {older}"
        last = max(weight(digest) for digest in gone if self.used[digest].perhaps >= latest)
        assert sum(map(weight, gone)) - last < self.excess, "more was evicted than was needed"
