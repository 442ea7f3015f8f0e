"""The phases of a soak: faults and restarts; a last process with faults; no faults; and the checks at the end."""

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.fake.cdn import Cdn
from tests.fake.registry import Registry
from tests.fake.shelf import Shelf
from tests.fake.tokens import Bearer, TokenServer
from tests.http.client import Client
from tests.soak.clients import Clients
from tests.soak.gauges import Gauges, Rest
from tests.soak.model import Model
from tests.soak.service import Service
from tests.soak.weather import Climate, Weather

Work = Callable[[], Coroutine[None, None, None]]
_SHARE = 0.4  # of all content fits into the cache
GRACE = 6.0  # seconds after a fault in which it may still show: requests in progress, Retry-After, a cached 404
_RECOVERED_WITHIN = 40.0  # seconds after a fault until every upstream counts as up: the longest pause, and a margin
_REST_WITHIN = 20.0
_MEMORY_MAY_GROW = 12 * 2**20  # bytes: the number of concurrent downloads is random
_WARM_UP = 0.25  # share of the last process's time
_FAIR_BEGIN = 0.1  # share of the time, before the last process is first measured at rest


@dataclass(frozen=True, slots=True)
class Plan:
    """Duration, number of clients and seed. A seed determines the random choices, but not their timing."""

    seconds: float
    clients: int
    seed: str
    storm: float = 3.0  # seconds, at most
    lives: float = 9.0  # seconds between two restarts, on average
    restless: float = 0.5  # share of the time with restarts
    calm: float = 0.12  # share of the time with neither faults nor restarts, at the end


@dataclass(slots=True)
class Soak:
    """All parts of one run, and the figures of its phases."""

    plan: Plan
    model: Model
    weather: Weather
    service: Service
    gauges: Gauges
    clients: Clients
    began: float
    first: Rest | None = None  # at rest, early in the last process
    last: Rest | None = None  # at rest, at its end
    recovered_after: float = 0.0
    restarting: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    @contextlib.asynccontextmanager
    async def prepared(cls, plan: Plan, directory: Path) -> AsyncIterator["Soak"]:
        """Start the upstreams, and prepare everything else."""
        rng = random.Random(plan.seed)
        async with (
            Registry.running() as plain,
            Registry.running() as hub,
            Cdn.running() as cdn,
            TokenServer.running() as tokens,
            Client.of("") as client,
        ):
            climates = [
                Climate("plain.test", Shelf(plain, rng, repositories=3, images=6)),
                Climate("hub.test", Shelf(hub, rng, repositories=3, images=6), cdn, tokens),
            ]
            hub.gate, hub.blobs_at = Bearer(tokens=tokens), cdn
            soak = cls._of(plan, directory, climates, rng, client)
            try:
                yield soak
            finally:
                await soak.service.kill()

    @classmethod
    def _of(cls, plan: Plan, directory: Path, climates: list[Climate], rng: random.Random, client: Client) -> "Soak":
        shelves = {climate.name: climate.shelf for climate in climates}
        excuses = _Excuses()
        model = Model(shelves, excuses)
        service = Service(
            directory,
            {climate.name: climate.shelf.registry.url for climate in climates},
            int(_SHARE * sum(shelf.size for shelf in shelves.values())),
            lambda digest: next(shelf.content(digest) for shelf in shelves.values() if digest in shelf.holders),
            model.break_promise,
            client,
        )
        gauges = Gauges(service, client, model.break_promise)
        excuses.tell(climates, service, gauges)
        weather = Weather(climates, rng, model.tainted, plan.storm)
        return cls(plan, model, weather, service, gauges, Clients(model, service, client, rng), time.monotonic())

    async def run(self) -> None:
        """Run all phases."""
        self.began = time.monotonic()
        await self.service.start()
        async with _tasks(self.gauges.watch_disk, self.gauges.watch_process, *self._pulls()):
            async with _tasks(*self._weather(), self._restart_repeatedly):
                self.clients.pause.set()
                await self._until(self.plan.restless)
            await self._last_life()
            async with _tasks(*self._weather()):
                self.clients.pause.set()
                await self._until(1 - self.plan.calm)
            await self._recovery()
            await self._until(1)
            await self.clients.stopped()
            self.last = await self._at_rest()
        self._check_leaks()
        await self.service.end(signal.SIGTERM)

    def _pulls(self) -> list[Work]:
        return [self.clients.pull_forever] * self.plan.clients

    def _weather(self) -> list[Work]:
        storms = [partial(self.weather.change, climate, fair=GRACE + 4) for climate in self.weather.climates]
        return [*storms, self.weather.move_tags]

    async def _until(self, share: float) -> None:
        """Wait until that share of the whole time is over."""
        await asyncio.sleep(max(0.0, self.began + share * self.plan.seconds - time.monotonic()))

    async def _restart_repeatedly(self) -> None:
        """Stop or kill the mirror, in alternation, and start it again."""
        rng = random.Random(f"{self.plan.seed} restarts")
        while True:
            for number in (signal.SIGKILL, signal.SIGTERM):
                await asyncio.sleep(rng.uniform(0.5, 1.5) * self.plan.lives)
                await asyncio.shield(self._restart(number))

    async def _restart(self, number: signal.Signals) -> None:
        async with self.restarting:  # the last process may be wanted during a restart
            await self.service.end(number)
            await self.service.start()

    async def _last_life(self) -> None:
        """Restart, let clients pull without faults for a while, then measure the mirror at rest."""
        await self.clients.stopped()
        await self._restart(signal.SIGTERM)
        self.clients.pause.set()
        await asyncio.sleep(_FAIR_BEGIN * self.plan.seconds)
        await self.clients.stopped()
        self.first = await self._at_rest()
        self.gauges.memory.clear()

    async def _at_rest(self) -> Rest:
        """Measure the mirror without pulls, after the upstreams have closed their idle connections."""
        for climate in self.weather.climates:
            for origin in climate.origins:
                await origin.go_down()
                await origin.come_back()
        return await self.gauges.at_rest(within=_REST_WITHIN)

    async def _recovery(self) -> None:
        """Wait until every upstream counts as up after the faults, and check how long it took."""
        began = time.monotonic()
        while any(
            self.gauges.counted_as_down(climate.name, time.monotonic(), time.monotonic())
            for climate in self.weather.climates
        ):
            if time.monotonic() - began > _RECOVERED_WITHIN:
                self.model.break_promise("an upstream counts as down long after it is well", str(self.gauges.down_seen))
                break
            await asyncio.sleep(0.1)
        self.recovered_after = time.monotonic() - began

    def _check_leaks(self) -> None:
        assert self.first is not None
        assert self.last is not None
        if len(self.last.files) > len(self.first.files):
            more = Counter(self.last.files) - Counter(self.first.files)
            self.model.break_promise("descriptors leak", f"{len(self.first.files)}, and then also {dict(more)}")
        if self.last.tasks > self.first.tasks:
            self.model.break_promise("tasks leak", f"{self.first.tasks}, then {self.last.tasks}")
        if self.last.litter or not self.last.is_quiet:
            self.model.break_promise("not at rest in the end", str(self.last))
        early, late = self.memory
        if late - early > max(_MEMORY_MAY_GROW, early // 10):
            self.model.break_promise("memory grows", f"{early} bytes, then {late}")

    @property
    def memory(self) -> tuple[int, int]:
        """Bytes, early and late in the last process."""
        return self.gauges.growth(warm_up=_WARM_UP * (1 - self.plan.restless) * self.plan.seconds)


class _Excuses:
    """Excuses by faults, by restarts, and by the mirror's own view of its upstreams."""

    def tell(self, climates: list[Climate], service: Service, gauges: Gauges) -> None:
        """Set the sources of the excuses."""
        self._climates = {climate.name: climate for climate in climates}
        self._service = service
        self._gauges = gauges

    def excuse(self, upstream: str, began: float, ended: float) -> bool:
        """Return whether a failure in that time is to be expected."""
        return (
            self._climates[upstream].was_bad(began - GRACE, ended)
            or self.was_down(began, ended)
            or self._gauges.counted_as_down(upstream, began, ended)
        )

    def was_down(self, began: float, ended: float) -> bool:
        """Return whether the mirror was down at some moment of that time."""
        return self._service.was_down(began, ended)


@contextlib.asynccontextmanager
async def _tasks(*works: Work) -> AsyncIterator[None]:
    """Run these while the block lasts; the first failure ends the block."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(work()) for work in works]
        try:
            yield
        finally:
            for task in running:
                task.cancel()
