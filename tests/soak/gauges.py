"""Resource use of the mirror, sampled during the run: memory, descriptors, tasks, disk, response time of /healthz."""

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
_AGREEING = 3  # samples
_HEALTHY_WITHIN = 5.0  # seconds; this process shares two cores with the mirror and all its clients


@dataclass(slots=True)
class Gauges:
    """Samples of the running mirror."""

    service: Service
    client: Client
    complain: Callable[[str, str], None]
    memory: list[tuple[float, int]] = field(default_factory=list)  # time and bytes; of the current mirror process
    health: list[float] = field(default_factory=list)  # seconds
    most_occupied: int = 0
    disk_looks: int = 0
    down_seen: dict[str, list[float]] = field(default_factory=dict)  # upstream -> times at which it counted as down
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def watch_disk(self) -> None:
        """Check the size limit of the cache continuously."""
        while True:
            occupied = self.service.mirror.occupied() if self.service.mirror is not None else None
            if occupied is not None:
                self.disk_looks += 1
                self.most_occupied = max(self.most_occupied, occupied)
                if occupied > self.service.limit:
                    self.complain("the cache is larger than it may be", f"{occupied} of {self.service.limit}")
            await asyncio.sleep(_DISK_EVERY)

    async def watch_process(self) -> None:
        """Sample memory, health and readiness while a mirror is up."""
        while True:
            await self.service.serving()
            began = time.monotonic()
            try:
                async with self.looking:
                    await self._look()
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:  # ValueError: the process ended
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
        """Return whether the mirror reported the upstream as down around that time."""
        seen = self.down_seen.get(upstream, [])
        first = bisect_left(seen, began - 5 * _EVERY)
        return first < len(seen) and seen[first] <= ended + 5 * _EVERY

    async def at_rest(self, *, within: float) -> "Rest":
        """Return the resource use without requests: when several equal samples show no activity, or at the deadline."""
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
        """Return the memory in the first and last third of this process's samples after warm-up (medians, bytes)."""
        begin = self.memory[0][0] + warm_up
        samples = [size for when, size in self.memory if when >= begin] or [self.memory[-1][1]]
        third = max(1, len(samples) // 3)
        return round(statistics.median(samples[:third])), round(statistics.median(samples[-third:]))


@dataclass(frozen=True, slots=True)
class Rest:
    """The resource use of an idle mirror."""

    files: tuple[str, ...]  # open files, by name or kind
    tasks: int
    downloads: int
    counted: int  # bytes, according to the mirror
    occupied: int  # bytes, on the disk
    litter: tuple[str, ...]  # files without a use

    @property
    def is_quiet(self) -> bool:
        """Return whether no download runs and the mirror's count of bytes is exact."""
        return not self.downloads and self.counted == self.occupied
