"""What the mirror takes of its machine, looked at all the while: memory, descriptors, tasks, disk, time to answer."""

import asyncio
import json
import statistics
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp

from tests.http.client import Client
from tests.http.resources import open_files, resident
from tests.soak.service import Service

_DISK_EVERY = 0.05  # seconds
_EVERY = 0.2
_AGREEING = 3  # looks
_HEALTHY_WITHIN = 5.0  # seconds; whoever looks shares two cores with the mirror and all its clients


@dataclass(slots=True)
class Gauges:
    """Samples of the mirror that runs."""

    service: Service
    client: Client
    complain: Callable[[str, str], None]
    memory: list[tuple[float, int]] = field(default_factory=list)  # when, bytes; of this life
    health: list[float] = field(default_factory=list)  # seconds
    most_occupied: int = 0
    disk_looks: int = 0
    down_seen: dict[str, list[float]] = field(default_factory=dict)  # upstream -> when it counted as down
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def watch_disk(self) -> None:
        """The limit on the size, at every moment."""
        while True:
            occupied = self.service.mirror.occupied() if self.service.mirror is not None else None
            if occupied is not None:
                self.disk_looks += 1
                self.most_occupied = max(self.most_occupied, occupied)
                if occupied > self.service.limit:
                    self.complain("the cache is larger than it may be", f"{occupied} of {self.service.limit}")
            await asyncio.sleep(_DISK_EVERY)

    async def watch_process(self) -> None:
        """Memory, health and readiness, while a mirror is up."""
        while True:
            await self.service.serving()
            began = time.monotonic()
            try:
                async with self.looking:
                    await self._look()
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:  # ValueError: it has just ended
                if not self.service.was_down(began, time.monotonic()):
                    self.complain("no answer from /healthz or /readyz", repr(error))
            await asyncio.sleep(_EVERY)

    async def _look(self) -> None:
        began = time.monotonic()
        reply = await self.client.get("/healthz")
        took = time.monotonic() - began
        self.health.append(took)
        if reply.status != 200 or took > _HEALTHY_WITHIN:
            self.complain("/healthz", f"{reply.status} after {took:.1f} s")
        for name, state in json.loads((await self.client.get("/readyz")).body)["upstreams"].items():
            if state != "up":
                self.down_seen.setdefault(name, []).append(time.monotonic())
        self.memory.append((time.monotonic(), resident(self.service.running.program.pid)))

    def counted_as_down(self, upstream: str, began: float, ended: float) -> bool:
        """Whether the mirror said so at some moment of about that time."""
        seen = self.down_seen.get(upstream, [])
        first = bisect_left(seen, began - 5 * _EVERY)
        return first < len(seen) and seen[first] <= ended + 5 * _EVERY

    async def at_rest(self, *, within: float) -> "Rest":
        """What it takes when nobody asks: as soon as nothing is under way and several looks agree, or in the end."""
        async with self.looking, asyncio.timeout(within + 10):
            deadline = time.monotonic() + within
            looks: list[Rest] = []
            while True:
                looks.append(await self._rest())
                *_, rest = looks
                if (rest.is_quiet and looks[-_AGREEING:] == [rest] * _AGREEING) or time.monotonic() > deadline:
                    return rest
                await asyncio.sleep(_EVERY)

    async def _rest(self) -> "Rest":
        metrics = await self.service.running.metrics()
        await asyncio.sleep(_EVERY)  # until the mirror has closed that connection too
        contents = self.service.cache.contents()
        return Rest(
            open_files(self.service.running.program.pid),
            int(metrics["mirror_tasks"]),
            int(metrics["mirror_downloads_running"]),
            int(metrics["mirror_cache_bytes"]),
            contents.occupied,
            contents.puts + contents.strangers,
        )

    def growth(self, *, warm_up: float) -> tuple[int, int]:
        """Memory in the first and in the last third of this life without its warm-up (medians, bytes)."""
        begin = self.memory[0][0] + warm_up
        samples = [size for when, size in self.memory if when >= begin] or [self.memory[-1][1]]
        third = max(1, len(samples) // 3)
        return round(statistics.median(samples[:third])), round(statistics.median(samples[-third:]))


@dataclass(frozen=True, slots=True)
class Rest:
    """A mirror at rest."""

    files: tuple[str, ...]  # that are open, by name or kind
    tasks: int
    downloads: int
    counted: int  # bytes, by the mirror
    occupied: int  # bytes, on the disk
    litter: tuple[str, ...]  # files that have no use

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is under way, and the count is exact."""
        return not self.downloads and self.counted == self.occupied
