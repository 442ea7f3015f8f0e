"""A mirror process, started as in production: `python -m mirror serve`."""

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
    """Return the mirror's environment: this package, and none of the MIRROR_… variables of the test run."""
    settings = {name: "" for name in os.environ if name.startswith("MIRROR_")}
    assert not settings, f"unset {', '.join(settings)} before running the tests"
    return {"PYTHONPATH": str(ROOT)}


def events_in(log: str) -> list[Event]:
    """Return the structured lines of a log; other lines, such as tracebacks, are left out."""
    found: list[Event] = []
    for line in log.splitlines():
        if line.startswith("{"):
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                continue  # an incomplete last line
            found.append(event)
    return found


class Mirror:
    """A running mirror, seen from outside: its address, its log and its metrics."""

    def __init__(self, program: Program, cache: Path) -> None:
        self.program = program
        self.cache = CacheDirectory(cache)
        self.url = ""

    async def serving(self) -> None:
        """Wait for the log line with the address."""
        await self.program.until(lambda: bool(self.events("listening")))
        self.url = str(self.events("listening")[-1]["url"])

    @property
    def host(self) -> str:
        """Host and port, as in the first part of image names."""
        return urlsplit(self.url).netloc

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port, self.url
        return port

    def events(self, name: str | None = None) -> list[Event]:
        """Return the events logged so far, all or those of one name."""
        return [event for event in events_in(self.program.said()) if name in (None, event.get("event"))]

    def occupied(self) -> int | None:
        """Return the bytes in the cache at one moment; None if the mirror could not be stopped for that."""
        with self.program.standing_still() as stands_still:
            return self.cache.occupied() if stands_still else None

    async def metrics(self) -> dict[str, float]:
        """Return every sample of /metrics by its name, labels included: `mirror_requests_total{kind="blob",…}`."""
        async with (
            aiohttp.ClientSession(raise_for_status=True) as session,
            session.get(f"{self.url}/metrics") as answer,
        ):
            text = await answer.text()
        samples = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    async def total(self, metric: str) -> float:
        """Return the sum of a metric over all its labels."""
        return sum(value for name, value in (await self.metrics()).items() if name.partition("{")[0] == metric)


async def launched(
    directory: Path,
    *arguments: str,
    upstreams: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    within: Sequence[str] = (),
) -> Mirror:
    """Start a mirror with its cache and log in *directory*, without waiting until it serves; the caller stops it.

    Args:
        within: the beginning of the command line, such as a Network's.
    """
    directory.mkdir(parents=True, exist_ok=True)
    argv = [*within, *COMMAND, "--listen", "127.0.0.1:0", "--cache", str(directory / "cache"), "--log-format", "json"]
    for name, url in (upstreams or {}).items():
        argv += ["--upstream", f"{name}={url}"]
    log = directory / "mirror.log"
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
    """Run a mirror until the end of the block, and assert that SIGTERM ends it with status 0 (see `launched`)."""
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
