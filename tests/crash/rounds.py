"""One cache through many rounds: start, check the state after the last kill, pull, kill at some condition."""

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

from tests.crash.acknowledged import Acknowledged
from tests.crash.fact_damage import DAMAGES, LOSSES, Damage
from tests.crash.kill_conditions import KILL_CONDITIONS, KillCondition, Observed, kill_when
from tests.crash.load import Load
from tests.crash.recovery import Figures, Recovery
from tests.fake.faults import Slow
from tests.fake.registry import Registry
from tests.fake.shelf import Shelf
from tests.http.client import Client
from tests.real.cache import CacheDirectory, Contents
from tests.real.mirror import Mirror, launched

_SHARE = 0.35  # of the upstream's bytes fit into the cache
NAME = "r.test"
_CONFIG = """
[cache]
min_free = 0
[tags]
fresh_for = "1d"
[timeouts]
shutdown = "2s"
"""
_START_TAKES = 0.8  # seconds, approximately


@dataclass(frozen=True, slots=True)
class Round:
    """One round, without the start of the next one."""

    condition: KillCondition | None  # None: kill during a start or a stop instead of during pulls
    on_start: bool
    lead: float  # seconds of pulls before the condition is watched
    damage: Damage | None

    @classmethod
    def drawn(cls, rng: random.Random) -> "Round":
        """Return a round of random kind."""
        kind = rng.randrange(10)
        damage = rng.choice(DAMAGES) if rng.randrange(6) == 0 else None
        return cls(rng.choice(KILL_CONDITIONS) if kind > 1 else None, kind == 0, rng.uniform(0, 0.7), damage)

    def __str__(self) -> str:
        at = self.condition.__name__ if self.condition else "a_start" if self.on_start else "a_stop"
        return at if self.damage is None else f"{at}, then the fact database {self.damage.__name__}"


@dataclass(slots=True)
class CacheRounds:
    """A cache directory, the registry behind it, and the facts that its mirror has acknowledged."""

    directory: Path
    shelf: Shelf
    rng: random.Random
    known: Acknowledged = field(default_factory=Acknowledged)
    figures: Figures = field(default_factory=Figures)
    kills: Counter[str] = field(default_factory=Counter)
    answers: int = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def at(cls, directory: Path, seed: str) -> AsyncIterator["CacheRounds"]:
        """Yield rounds with their own registry, which stops with the block."""
        rng = random.Random(seed)
        async with Registry.running() as registry:
            yield cls(directory, Shelf(registry, rng, repositories=3, images=5), rng)

    @property
    def limit(self) -> int:
        """Return the cache's max_size in bytes."""
        return int(_SHARE * self.shelf.size)

    @property
    def cache(self) -> CacheDirectory:
        return CacheDirectory(self.directory / "cache")

    async def run(self, rounds: int) -> None:
        """Kill the mirror *rounds* times and check it after each restart."""
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "mirror.toml").write_text(_CONFIG)
        before, last = None, None
        for number in range(rounds + 1):
            drawn = Round.drawn(self.rng) if number < rounds else None
            try:
                before = await self._round(drawn, before, damaged=last.damage if last else None)
            except BaseException as error:
                error.add_note(f"in round {number} of {self.directory.name} (it was killed at {last}; now {drawn})")
                raise
            last = drawn

    async def _round(self, drawn: Round | None, before: Contents | None, *, damaged: Damage | None) -> Contents | None:
        """Check the state that the last mirror left, then run one that is killed as *drawn*, or stopped."""
        lost = damaged in LOSSES
        if drawn is not None and drawn.condition is None and drawn.on_start and before is not None:
            await self._killed_on_start()
            assert self.cache.contents().blobs == before.blobs
            before, lost = self.cache.contents(), False  # the killed start may have rebuilt the fact database
        mirror = await self._launched()
        try:
            await mirror.serving()
            async with Client.of(mirror.url) as client:
                load = Load(self.shelf, NAME, self.known, client, self.rng)
                if before is not None:
                    recovery = Recovery(
                        mirror, load, self.cache, before, self.figures, self.limit, damaged is not None, lost
                    )
                    await recovery.check()
                if drawn is None:
                    assert await mirror.program.stop() == 0
                    return None
                await self._run_and_kill(mirror, load, drawn)
        finally:
            await mirror.program.kill()
        return self._check_remains(drawn)

    async def _launched(self) -> Mirror:
        arguments = ("--config", str(self.directory / "mirror.toml"), "--max-size", str(self.limit))
        return await launched(self.directory, *arguments, upstreams={NAME: self.shelf.registry.url})

    async def _killed_on_start(self) -> None:
        """Kill a mirror before it has started completely."""
        mirror = await self._launched()
        await asyncio.sleep(self.rng.uniform(_START_TAKES / 3, _START_TAKES))
        await mirror.program.kill()

    async def _run_and_kill(self, mirror: Mirror, load: Load, drawn: Round) -> None:
        """Run clients until the mirror is killed at the drawn condition."""
        self._change_upstream()
        sizes = {digest: blob.size for digest, blob in self.shelf.blobs.items()}
        observed = Observed(self.cache, mirror.program.log, sizes, self.rng)
        watching = asyncio.create_task(self._watch(mirror))
        try:
            async with load.running():
                await asyncio.sleep(drawn.lead)
                kill = partial(_kill, mirror, load)
                if drawn.condition is None:
                    load.killed = True  # a stopping mirror refuses requests, which is not tested here
                    mirror.program.signal(signal.SIGTERM)
                    await asyncio.sleep(self.rng.uniform(0, 0.3))
                    kill()
                else:
                    await asyncio.to_thread(kill_when, drawn.condition(observed), kill)
                await mirror.program.kill()
        finally:
            watching.cancel()
        self.answers += load.answers
        self.kills[str(drawn).partition(",")[0]] += 1
        if any(event["event"] == "facts_failed" for event in mirror.events()):
            self.known.clear()  # the damaged database has not stored every acknowledged fact

    def _change_upstream(self) -> None:
        """Move tags, which a mirror must not see while they are fresh, and serve some blobs slowly."""
        registry = self.shelf.registry
        registry.heal()
        registry.journal.entries.clear()
        self.shelf.move()
        for digit in self.rng.sample("0123456789abcdef", 8):
            registry.inject(Slow(self.rng.uniform(5e5, 8e6)), f"*/blobs/sha256:{digit}*")

    async def _watch(self, mirror: Mirror) -> None:
        """Assert continuously that the cache keeps its size limit."""
        while True:
            occupied = mirror.occupied() or 0
            self.figures.highest = max(self.figures.highest, occupied)
            assert occupied <= self.limit, f"{occupied} bytes are in the cache, {self.limit} are allowed"
            await asyncio.sleep(0.01)

    def _check_remains(self, drawn: Round) -> Contents:
        """Return the content of the killed mirror's cache, and assert that all of it is correct."""
        self.shelf.registry.heal()
        self.known.drop_unsynced()
        before = self.cache.contents()
        assert before.occupied <= self.limit, before
        assert not before.strangers, before.strangers
        for digest in before.blobs:
            assert self.cache.blob(digest).read_bytes() == self.shelf.content(digest), (
                f"wrong bytes committed: {digest}"
            )
        if drawn.damage is not None:
            self.kills[f"facts {drawn.damage.__name__}"] += 1
            drawn.damage(self.cache.ledger, self.rng)
            self.known.clear()
        return before


def _kill(mirror: Mirror, load: Load) -> None:
    """Kill the mirror; mark the load first, so that clients expect disconnects."""
    load.killed = True
    with contextlib.suppress(ProcessLookupError):
        os.killpg(mirror.program.pid, signal.SIGKILL)
