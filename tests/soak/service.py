"""The mirror under test: starts, stops and kills it, and checks its log and cache directory after each end."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.http.client import Client
from tests.real.cache import CacheDirectory
from tests.real.mirror import Mirror, launched
from tests.soak.model import FRESH_FOR, PATIENCE

_CONFIG = f"""
[cache]
min_free = 0
[tags]
fresh_for = "{FRESH_FOR}s"
missing_for = "500ms"
[timeouts]
connect = "1s"
first_byte = "{PATIENCE}s"
silence = "2s"
shutdown = "2s"
"""
_ENDS_WITHIN = 10.0  # seconds from SIGTERM to the end: shutdown, plus a margin for a busy machine
_BAD_EVENTS = {"request_crashed", "download_crashed", "maintenance_crashed", "maintenance_failed", "facts_failed"}


@dataclass(slots=True)
class Service:
    """One cache directory, and the mirror that uses it, if one runs."""

    directory: Path
    upstreams: Mapping[str, str]
    limit: int  # bytes
    content: Callable[[str], bytes]  # of a digest
    complain: Callable[[str, str], None]
    client: Client  # gets each new address
    mirror: Mirror | None = None
    ends: Counter[str] = field(default_factory=Counter)  # by signal
    downs: list[list[float]] = field(default_factory=list)  # start and end of each downtime
    up: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def cache(self) -> CacheDirectory:
        """The cache directory."""
        return CacheDirectory(self.directory / "cache")

    @property
    def running(self) -> Mirror:
        """The running mirror."""
        assert self.mirror is not None, "no mirror runs"
        return self.mirror

    async def start(self) -> None:
        """Start a mirror over the cache of the last one."""
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "mirror.toml"
        config.write_text(_CONFIG)
        before = self.cache.contents() if self.cache.path.exists() else None
        arguments = ("--config", str(config), "--max-size", str(self.limit))
        self.mirror = await launched(self.directory, *arguments, upstreams=self.upstreams)
        await self.mirror.serving()
        if before is not None:
            kept = sum(before.blobs.values()) + sum(before.ingests.values())
            (opened,) = self.mirror.events("store_opened")
            if (opened["blobs"], opened["bytes"]) != (len(before.blobs), kept):
                self.complain(
                    "the count is not exact after a restart", f"{opened}, {len(before.blobs)} of {kept} bytes"
                )
        self.client.base = self.mirror.url
        if self.downs:
            self.downs[-1][1] = time.monotonic()
        self.up.set()

    async def end(self, number: signal.Signals) -> None:
        """End this process with a signal, and check its log and directory."""
        self.up.clear()
        self.downs.append([time.monotonic(), float("inf")])
        self.ends[number.name] += 1
        program = self.running.program
        program.signal(number)
        try:
            code = await program.ended(within=_ENDS_WITHIN)
        except AssertionError:
            self.complain("it did not end when told to", number.name)
            await program.kill()
            code = 0
        if number is signal.SIGTERM and code != 0:
            self.complain("exit code", f"{code} after SIGTERM")
        self._check_log()
        self._check_directory()
        self.mirror = None

    async def serving(self) -> None:
        """Wait until a mirror is up."""
        await self.up.wait()

    def was_down(self, began: float, ended: float) -> bool:
        """Return whether the mirror was down at some moment of that time."""
        return any(down <= ended and began <= up for down, up in self.downs)

    async def kill(self) -> None:
        """Kill the mirror, if one runs."""
        if self.mirror is not None:
            await self.mirror.program.kill()

    def _check_log(self) -> None:
        if "Traceback" in self.running.program.said():
            said = self.running.program.said()
            self.complain("a traceback in the log", said[said.index("Traceback") :][:2000])
        for event in self.running.events():
            if event["event"] in _BAD_EVENTS:
                self.complain(f"the log says {event['event']}", str(event)[:400])

    def _check_directory(self) -> None:
        left = self.cache.contents()
        if left.strangers:
            self.complain("files that are not of the layout", str(left.strangers))
        if left.occupied > self.limit:
            self.complain("the cache is larger than it may be", f"{left.occupied} of {self.limit}")
        for digest in left.blobs:
            if self.cache.blob(digest).read_bytes() != self.content(digest):
                self.complain("wrong bytes committed", digest)
