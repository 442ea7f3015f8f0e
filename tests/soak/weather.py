"""Faults of the upstreams: bursts of faults (storms), outages, expired tokens and URLs, moving tags."""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.fake.answers import Answer, Valve
from tests.fake.cdn import Cdn
from tests.fake.faults import (
    Cut,
    Fault,
    Gzipped,
    Header,
    Hold,
    Overrun,
    RangeIgnored,
    RangeMislabelled,
    RangeShifted,
    RangeUnsized,
    Redirect,
    Reset,
    Resized,
    Slow,
    Status,
    Unframed,
    Without,
    Wrong,
)
from tests.fake.origin import Origin
from tests.fake.shelf import Shelf
from tests.fake.tokens import TokenServer

_MOST_STRUCK = 40  # responses to which one fault applies
_FAIR_EVERY = 5  # storms


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault."""

    name: str
    make: Callable[[random.Random], Fault]
    path: str = "*"
    method: str | None = None
    corrupts: bool = False  # the bytes of content are changed
    harmless: bool = False  # the mirror must hide it from clients


def _size(rng: random.Random) -> int:
    return rng.choice((1, 1_000, 50_000, 100_000, 500_000))


BLOBS, MANIFESTS = "*/blobs/*", "*/manifests/*"
KINDS = (
    Kind("500", lambda _: Status(500)),
    Kind("503", lambda _: Status(503)),
    Kind("404", lambda _: Status(404)),
    Kind("401", lambda _: Status(401)),
    Kind("403", lambda _: Status(403)),
    Kind("429", lambda rng: Status(429, {"Retry-After": str(rng.randint(1, 2))}), MANIFESTS),
    Kind("junk instead of a manifest", lambda _: Status(200, body=b"<html>"), MANIFESTS, corrupts=True),
    Kind("redirect to nowhere", lambda _: Redirect("http://127.0.0.1:9/nobody")),
    Kind("redirect in a circle", lambda _: Redirect("/v2/")),
    Kind("reset before the answer", lambda _: Reset()),
    Kind("silence", lambda _: Hold(Valve())),
    Kind("silence in mid-body", lambda rng: Hold(Valve(), at=_size(rng)), BLOBS),
    Kind("cut in mid-body", lambda rng: Cut(_size(rng))),
    Kind("reset in mid-body", lambda rng: Cut(_size(rng), reset=True)),
    Kind("wrong last byte", lambda _: Wrong(), corrupts=True),
    Kind("wrong first byte", lambda _: Wrong(0), corrupts=True),
    Kind("too short", lambda _: Resized(-1), corrupts=True),
    Kind("too long", lambda _: Resized(3), corrupts=True),
    Kind("gzip", lambda _: Gzipped(), corrupts=True),
    Kind("range that begins later", lambda _: RangeShifted(7), BLOBS, corrupts=True),
    Kind("range with a wrong label", lambda _: RangeMislabelled("bytes 5-9/77"), BLOBS, corrupts=True),
    Kind("digest of something else", lambda _: Header("Docker-Content-Digest", f"sha256:{'0' * 64}"), MANIFESTS),
    Kind("range without a size", lambda _: RangeUnsized(), BLOBS, harmless=True),
    Kind("range ignored", lambda _: RangeIgnored(), BLOBS, harmless=True),
    Kind("no length", lambda _: Unframed(), BLOBS, harmless=True),
    Kind("no digest", lambda _: Without("Docker-Content-Digest"), harmless=True),
    Kind("another media type", lambda _: Header("Content-Type", "text/plain"), BLOBS, harmless=True),
    Kind("bytes after the end", lambda _: Overrun(), BLOBS, "GET"),
    Kind("slow", lambda rng: Slow(rng.uniform(5e5, 4e6)), harmless=True),
)


@dataclass(frozen=True, slots=True)
class Counted:
    """A fault that reports each use."""

    fault: Fault
    strike: Callable[[Answer], None]

    def apply(self, answer: Answer) -> None:
        self.strike(answer)
        self.fault.apply(answer)


@dataclass(slots=True)
class Spell:
    """A period of faults at one upstream."""

    began: float
    ended: float | None = None  # None: not over yet


@dataclass(slots=True)
class Climate:
    """One upstream with all its servers, and its periods of faults."""

    name: str
    shelf: Shelf
    cdn: Cdn | None = None
    tokens: TokenServer | None = None
    spells: list[Spell] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)

    @property
    def origins(self) -> list[Origin]:
        """The servers of this upstream."""
        return [one for one in (self.shelf.registry, self.cdn, self.tokens) if one is not None]

    def clear(self) -> None:
        """Remove all faults."""
        for origin in self.origins:
            origin.heal()
        for hold in self.holds:
            hold.valve.open()
        self.holds.clear()

    @contextmanager
    def spell(self) -> Iterator[None]:
        """Record a period of faults while the block lasts."""
        spell = Spell(time.monotonic())
        self.spells.append(spell)
        try:
            yield
        finally:
            spell.ended = time.monotonic()

    def was_bad(self, began: float, ended: float) -> bool:
        """Return whether there were faults at some moment of that time."""
        return any(spell.began <= ended and (spell.ended is None or spell.ended >= began) for spell in self.spells)


@dataclass(slots=True)
class Weather:
    """Storms over the upstreams, one after another, until their task is cancelled."""

    climates: list[Climate]
    rng: random.Random
    tainted: set[str]  # receives the digests of content that was sent with wrong bytes
    storm: float  # seconds that one lasts, at most
    struck: Counter[str] = field(default_factory=Counter)  # faults, by kind
    tags_moved: int = 0
    deck: list[Kind] = field(default_factory=list)  # kinds not yet used in this round

    async def change(self, climate: Climate, *, fair: float) -> None:
        """Run one storm after another with pauses in between; every fifth pause lasts *fair* seconds."""
        try:
            for number in itertools.count(1):
                await self._storm(climate)
                for origin in climate.origins:
                    origin.journal.entries.clear()
                await asyncio.sleep(self.rng.uniform(0.2, self.storm) if number % _FAIR_EVERY else fair)
        finally:
            climate.clear()
            for origin in climate.origins:
                await origin.come_back()

    async def move_tags(self) -> None:
        """Move, delete and restore tags, at every upstream."""
        while True:
            await asyncio.sleep(self.rng.uniform(0.1, 0.5))
            shelf = self.rng.choice(self.climates).shelf
            if self.rng.randrange(8):
                shelf.move()
            else:
                repository, tag = self.rng.choice(list(shelf.tags))
                shelf.point(repository, tag, None)
            self.tags_moved += 1

    async def _storm(self, climate: Climate) -> None:
        kind = self.rng.randrange(8)
        lasts = self.rng.uniform(self.storm / 3, self.storm)
        if kind == 0:
            await self._outage(climate, lasts)
        elif kind == 1 and climate.tokens is not None:
            climate.tokens.revoke()
            self.struck["tokens revoked"] += 1
        elif kind == 2 and climate.cdn is not None:
            with climate.spell():
                climate.cdn.expire()
                self.struck["addresses expired"] += 1
        else:
            await self._faults(climate, lasts)

    async def _outage(self, climate: Climate, lasts: float) -> None:
        origin = self.rng.choice(climate.origins)
        with climate.spell():
            await origin.go_down()
            self.struck["outage"] += 1
            await asyncio.sleep(lasts)
            await origin.come_back()

    async def _faults(self, climate: Climate, lasts: float) -> None:
        kinds = [self._next() for _ in range(self.rng.randint(1, 2))]
        for kind in kinds:
            self._inject(climate, kind)
        if all(kind.harmless for kind in kinds):
            await asyncio.sleep(lasts)
            climate.clear()
            return
        with climate.spell():
            await asyncio.sleep(lasts)
            climate.clear()

    def _next(self) -> Kind:
        """Return the next kind; all kinds are used once before one is repeated."""
        if not self.deck:
            self.deck = self.rng.sample(KINDS, len(KINDS))
        return self.deck.pop()

    def _inject(self, climate: Climate, kind: Kind) -> None:
        fault = kind.make(self.rng)
        if isinstance(fault, Hold):
            climate.holds.append(fault)

        def strike(answer: Answer) -> None:
            self.struck[kind.name] += 1
            if kind.corrupts:
                self.tainted.update(climate.shelf.digests_of(answer.content))

        times = self.rng.randint(1, _MOST_STRUCK)
        registry = climate.shelf.registry
        # Token requests are rare, and only the registry serves manifests.
        origin = registry if kind.path == MANIFESTS else self.rng.choice((registry, *climate.origins))
        if kind.path == BLOBS and climate.cdn is not None:
            origin = climate.cdn
        origin.inject(Counted(fault, strike), kind.path if origin is registry else "*", method=kind.method, times=times)
