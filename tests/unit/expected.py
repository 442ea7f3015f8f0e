"""What a store must be: a model of it, and of who reads and writes."""

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
    """Someone who holds a blob: open, where there was one."""

    content: Content
    exits: AsyncExitStack
    blob: DiskBlob | None = None


@dataclass(eq=False)
class Arrival:
    """An ingest that is open."""

    content: Content
    exits: AsyncExitStack
    ingest: DiskIngest
    written: bytes
    reserved: int
    is_sized: bool = False


class Use(NamedTuple):
    """The steps of last use: of the one that counts, and of the one that may count."""

    certainly: int
    perhaps: int


@dataclass
class Expected:
    """What the store must be after some steps."""

    limit: int
    used: dict[Digest, Use] = field(default_factory=dict)  # of what is stored
    vanished: set[Digest] = field(default_factory=set)  # stored, then removed by somebody else, and not yet missed
    kept: dict[Digest, bytes] = field(default_factory=dict)  # what broken-off ingests left
    arriving: list[Arrival] = field(default_factory=list)
    held: Counter[Digest] = field(default_factory=Counter)
    step: int = 0

    @property
    def occupied(self) -> int:
        """Stored, left, and room that was made."""
        return sum(map(weight, self.used)) + self.left + sum(one.reserved for one in self.arriving)

    @property
    def left(self) -> int:
        return sum(map(len, self.kept.values()))

    @property
    def evictable(self) -> set[Digest]:
        """What nobody holds, and would make room."""
        return {digest for digest in self.used if not self.held[digest] and weight(digest)}

    def can_have(self, size: int) -> bool:
        """Whether there is room for so many bytes more, or can be."""
        return self.occupied + size - self.limit <= self.left + sum(map(weight, self.evictable))

    def use(self, content: Content, *, certainly: bool = True) -> None:
        """A use of a manifest is a use of all that it references; perhaps also where it is not stored itself."""
        use = self.used.get(content.digest)
        if use is not None:
            self.used[content.digest] = Use(self.step if certainly else use.certainly, self.step)
        for one in content.references:
            self.use(one, certainly=certainly and use is not None)

    def store(self, content: Content) -> None:
        """What has just come is about to be used."""
        self.strike(content.digest)
        self.used[content.digest] = Use(self.step, self.step)
        self.use(content)

    def strike(self, digest: Digest) -> None:
        self.used.pop(digest, None)
        self.vanished.discard(digest)

    def miss(self, digest: Digest) -> None:
        """Somebody wanted to read it, and found it vanished."""
        if digest in self.vanished:
            self.strike(digest)


@dataclass
class Space:
    """The state before a step that makes room, to judge by what the step did for it."""

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
        """Of broken-off ingests no more was dropped than makes room."""
        if sizes:
            assert sum(sizes) - max(sizes) < self.excess, "more was dropped than was needed"
            self.excess -= sum(sizes)

    def check_evicted(self, gone: set[Digest]) -> None:
        """Of blobs no more went than makes room: the least recently used, and none that is held."""
        if not gone:
            return
        assert self.possible, "something went, and all the same for nothing"
        assert gone <= self.evictable, "what is held was evicted"
        youngest = max(self.used[digest].certainly for digest in gone)
        older = [WORLD[digest] for digest in self.evictable - gone if self.used[digest].perhaps < youngest]
        assert not older, f"evicted: {[WORLD[digest] for digest in gone]}; used less recently: {older}"
        last = max(weight(digest) for digest in gone if self.used[digest].perhaps >= youngest)
        assert sum(map(weight, gone)) - last < self.excess, "more was evicted than was needed"
