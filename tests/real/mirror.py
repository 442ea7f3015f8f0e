"""The mirror itself, started as its users start it: `python -m mirror serve`."""

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from tests.real.cache import CacheDirectory
from tests.real.program import Program

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "mirror", "serve")

Event = dict[str, object]


def environment() -> dict[str, str]:
    """What the mirror finds around it: our package, and none of the MIRROR_… settings of whoever runs the tests."""
    settings = {name: "" for name in os.environ if name.startswith("MIRROR_")}
    assert not settings, f"unset {', '.join(settings)} before running the tests"
    return {"PYTHONPATH": str(ROOT)}


def events_in(log: str) -> list[Event]:
    """The structured lines of a log; a line that is none (a traceback, say) is left out."""
    found: list[Event] = []
    for line in log.splitlines():
        if line.startswith("{"):
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                continue  # a line that is still being written
            found.append(event)
    return found


class Mirror:
    """A mirror that serves, seen from outside: its address, its log, its metrics."""

    def __init__(self, program: Program, cache: Path) -> None:
        self.program = program
        self.cache = CacheDirectory(cache)
        self.url = ""

    async def serving(self) -> None:
        """Wait for the line that says where it listens."""
        await self.program.until(lambda: bool(self.events("listening")))
        self.url = str(self.events("listening")[-1]["url"])

    @property
    def host(self) -> str:
        """Host and port, as image names have them in front."""
        return urlsplit(self.url).netloc

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port, self.url
        return port

    def events(self, name: str | None = None) -> list[Event]:
        """What it logged so far, all or those of one name."""
        return [event for event in events_in(self.program.said()) if name in (None, event.get("event"))]

    def occupied(self) -> int | None:
        """Bytes in its cache at one moment; None where that could not be told."""
        with self.program.standing_still() as stands_still:
            return self.cache.occupied() if stands_still else None

    async def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name, labels included: `mirror_requests_total{kind="blob",…}`."""
        async with (
            aiohttp.ClientSession(raise_for_status=True) as session,
            session.get(f"{self.url}/metrics") as answer,
        ):
            text = await answer.text()
        samples = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    async def total(self, metric: str) -> float:
        """The sum of a metric over all its labels."""
        return sum(value for name, value in (await self.metrics()).items() if name.partition("{")[0] == metric)


async def launched(
    directory: Path,
    *arguments: str,
    upstreams: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    within: Sequence[str] = (),
) -> Mirror:
    """A mirror with its cache and log in *directory*, just started: perhaps not serving yet; the caller ends it.

    Args:
        within: what its command line begins with, such as a Network's.
    """
    directory.mkdir(parents=True, exist_ok=True)
    argv = [*within, *COMMAND, "--listen", "127.0.0.1:0", "--cache", str(directory / "cache"), "--log-format", "json"]
    for name, url in (upstreams or {}).items():
        argv += ["--upstream", f"{name}={url}"]
    log = directory / "mirror.observability.log"
    log.write_text("")
    program = await Program.start([*argv, *arguments], log=log, env={**environment(), **(env or {})})
    return Mirror(program, directory / "cache")


@asynccontextmanager
async def mirror(
    directory: Path,
    *arguments: str,
    upstreams: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    within: Sequence[str] = (),
) -> AsyncIterator[Mirror]:
    """A mirror as long as the block lasts; its end is a SIGTERM, to be answered with exit code 0 (see `launched`)."""
    started = await launched(directory, *arguments, upstreams=upstreams, env=env, within=within)
    program = started.program
    try:
        await started.serving()
        yield started
        program.signal(signal.SIGTERM)
        code = await program.ended()
        assert code == 0, f"exit code {code} after SIGTERM: {program}"
        assert "Traceback" not in program.said(), str(program)
    finally:
        await program.kill()
