"""One cache's life: start, check what the last kill left, pull, kill at some moment; and again."""

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.crash.damage import DAMAGES, LOSSES, Damage
from tests.crash.known import Known
from tests.crash.load import Load
from tests.crash.moments import MOMENTS, Moment, Scene, wait_and_do
from tests.crash.recovery import Figures, Recovery
from tests.fake.faults import Slow
from tests.fake.registry import Registry
from tests.fake.shelf import Shelf
from tests.http.client import Client
from tests.real.cache import CacheDirectory, Contents
from tests.real.mirror import Mirror, launched

_SHARE = 0.35  # of all there is to pull fits into the cache
NAME = "r.test"
_CONFIG = """
[cache]
min_free = 0
[tags]
fresh_for = "1d"
[timeouts]
shutdown = "2s"
"""
_START_TAKES = 0.8  # seconds, about


@dataclass(frozen=True, slots=True)
class Round:
    """What happens in one round, before the next one's start."""

    moment: Moment | None  # None: not while clients pull, but while it starts or stops
    on_start: bool
    lead: float  # seconds of pulls before the moment is waited for
    damage: Damage | None

    @classmethod
    def drawn(cls, luck: random.Random) -> "Round":
        """One of all kinds of rounds."""
        kind = luck.randrange(10)
        damage = luck.choice(DAMAGES) if luck.randrange(6) == 0 else None
        return cls(luck.choice(MOMENTS) if kind > 1 else None, kind == 0, luck.uniform(0, 0.7), damage)

    def __str__(self) -> str:
        at = self.moment.__name__ if self.moment else "a_start" if self.on_start else "a_stop"
        return at if self.damage is None else f"{at}, then the ledger {self.damage.__name__}"


@dataclass(slots=True)
class Lane:
    """A cache directory, the registry behind it, and what is known of both."""

    directory: Path
    shelf: Shelf
    luck: random.Random
    known: Known = field(default_factory=Known)
    figures: Figures = field(default_factory=Figures)
    kills: Counter[str] = field(default_factory=Counter)
    answers: int = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def at(cls, directory: Path, seed: str) -> AsyncIterator["Lane"]:
        """A lane with a registry of its own, as long as the block lasts."""
        luck = random.Random(seed)
        async with Registry.running() as registry:
            yield cls(directory, Shelf(registry, luck, repositories=3, images=5), luck)

    @property
    def limit(self) -> int:
        """The cache's max_size, in bytes."""
        return int(_SHARE * self.shelf.size)

    @property
    def cache(self) -> CacheDirectory:
        return CacheDirectory(self.directory / "cache")

    async def run(self, rounds: int) -> None:
        """So many kills, and a check after each."""
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "mirror.toml").write_text(_CONFIG)
        before, last = None, None
        for number in range(rounds + 1):
            drawn = Round.drawn(self.luck) if number < rounds else None
            try:
                before = await self._round(drawn, before, damaged=last.damage if last else None)
            except BaseException as error:
                error.add_note(f"in round {number} of {self.directory.name} (it was killed at {last}; now {drawn})")
                raise
            last = drawn

    async def _round(self, drawn: Round | None, before: Contents | None, *, damaged: Damage | None) -> Contents | None:
        """A life of the mirror, from the check of what the last one left to its own end; no *drawn*: a peaceful one."""
        lost = damaged in LOSSES
        if drawn is not None and drawn.moment is None and drawn.on_start and before is not None:
            await self._killed_on_start()
            assert self.cache.contents().blobs == before.blobs
            before, lost = self.cache.contents(), False  # which that start may have mended
        mirror = await self._launched()
        try:
            await mirror.serving()
            async with Client.of(mirror.url) as client:
                load = Load(self.shelf, NAME, self.known, client, self.luck)
                if before is not None:
                    recovery = Recovery(
                        mirror, load, self.cache, before, self.figures, self.limit, damaged is not None, lost
                    )
                    await recovery.check()
                if drawn is None:
                    assert await mirror.program.stop() == 0
                    return None
                await self._live_and_die(mirror, load, drawn)
        finally:
            await mirror.program.kill()
        return self._left(drawn)

    async def _launched(self) -> Mirror:
        arguments = ("--config", str(self.directory / "mirror.toml"), "--max-size", str(self.limit))
        return await launched(self.directory, *arguments, upstreams={NAME: self.shelf.registry.url})

    async def _killed_on_start(self) -> None:
        """A start that doesn't come to its end."""
        mirror = await self._launched()
        await asyncio.sleep(self.luck.uniform(_START_TAKES / 3, _START_TAKES))
        await mirror.program.kill()

    async def _live_and_die(self, mirror: Mirror, load: Load, drawn: Round) -> None:
        """Clients pull, until the mirror is killed at the moment that was drawn."""
        self._change_upstream()
        sizes = {digest: blob.size for digest, blob in self.shelf.blobs.items()}
        scene = Scene(self.cache, mirror.program.log, sizes, self.luck)
        watching = asyncio.create_task(self._watch(mirror))
        try:
            async with load.running():
                await asyncio.sleep(drawn.lead)
                strike = partial(_kill, mirror, load)
                if drawn.moment is None:
                    load.killed = True  # a mirror that was told to stop refuses, which is not what is tested here
                    mirror.program.signal(signal.SIGTERM)
                    await asyncio.sleep(self.luck.uniform(0, 0.3))
                    strike()
                else:
                    await asyncio.to_thread(wait_and_do, drawn.moment(scene), strike)
                await mirror.program.kill()
        finally:
            watching.cancel()
        self.answers += load.answers
        self.kills[str(drawn).partition(",")[0]] += 1
        if any(event["event"] == "facts_failed" for event in mirror.events()):
            self.known.clear()  # of a damaged database: what it could not write it does not know

    def _change_upstream(self) -> None:
        """Tags move, which a mirror must not see while they are fresh; some blobs come slowly, some at once."""
        registry = self.shelf.registry
        registry.heal()
        registry.journal.entries.clear()
        self.shelf.move()
        for digit in self.luck.sample("0123456789abcdef", 8):
            registry.inject(Slow(self.luck.uniform(5e5, 8e6)), f"*/blobs/sha256:{digit}*")

    async def _watch(self, mirror: Mirror) -> None:
        """The limit on the size holds at every moment."""
        while True:
            occupied = mirror.occupied() or 0
            self.figures.highest = max(self.figures.highest, occupied)
            assert occupied <= self.limit, f"{occupied} bytes stand in the cache, {self.limit} may"
            await asyncio.sleep(0.01)

    def _left(self, drawn: Round) -> Contents:
        """What the killed mirror left, all of it right."""
        self.shelf.registry.heal()
        self.known.crashed()
        before = self.cache.contents()
        assert before.occupied <= self.limit, before
        assert not before.strangers, before.strangers
        for digest in before.blobs:
            assert self.cache.blob(digest).read_bytes() == self.shelf.content(digest), (
                f"wrong bytes committed: {digest}"
            )
        if drawn.damage is not None:
            self.kills[f"ledger {drawn.damage.__name__}"] += 1
            drawn.damage(self.cache.ledger, self.luck)
            self.known.clear()
        return before


def _kill(mirror: Mirror, load: Load) -> None:
    """Now. What the clients see of it comes after it was noted."""
    load.killed = True
    with contextlib.suppress(ProcessLookupError):
        os.killpg(mirror.program.pid, signal.SIGKILL)
