"""The stage: a watched mirror before an upstream of bytes, and what has to hold whatever it is sent."""

import ast
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path

from tests.fuzz.replies import Malformed, replies
from tests.fuzz.tally import Tally
from tests.fuzz.upstream import Upstream
from tests.real.mirror import Mirror, environment
from tests.real.program import Program, running

HEALTHY_WITHIN = 5.0  # seconds
_HEALTH = b"GET /healthz HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\r\n"
_DOCUMENTATION = ip_network("203.0.113.0/24")
_SETTINGS = '[timeouts]\nconnect = "1s"\nfirst_byte = "1s"\nsilence = "1s"\nshutdown = "2s"\n'


class Stage:
    """A mirror that is fuzzed."""

    def __init__(self, mirror: Mirror, upstream: Upstream, notes: Path, cache: Path, host: str, tally: Tally) -> None:
        self._mirror = mirror
        self._upstream = upstream
        self._notes = notes
        self._cache = cache
        self._host = host
        self._tally = tally
        self._read = 0  # lines of the log that were looked at

    @property
    def port(self) -> int:
        return self._mirror.port

    async def exchange(self, *pieces: bytes, quiet: float | None, within: float) -> tuple[bytes, bool]:
        """What the mirror says to these bytes, sent one piece after the other.

        Args:
            quiet: seconds without a byte after which a whole answer is taken for the last; None: it has to close.

        Returns:
            that, and whether it was all: False where *within* was over first.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
        said = b""
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                if len(pieces) > 1:
                    await asyncio.sleep(0)
            async with asyncio.timeout(within):
                while True:
                    try:
                        async with asyncio.timeout(quiet):
                            more = await reader.read(2**20)
                    except TimeoutError:
                        if quiet is not None and _is_whole(said):
                            return said, True
                        continue
                    if not more:
                        return said, True
                    said += more
        except ConnectionError:
            return said, True
        except TimeoutError:
            return said, False
        finally:
            writer.transport.abort()

    async def check_health(self, number: int | None) -> None:
        """That it lives, and answers at once."""
        said, whole = await self.exchange(_HEALTH, quiet=None, within=HEALTHY_WITHIN)
        if not whole or b"alive" not in said:
            state = "late" if self._mirror.program.running else "dead"
            self._tally.fail("hang" if state == "late" else "crash", f"/healthz: {state} {said[:200]!r}", number)

    def check_log(self, number: int | None) -> None:
        """That nothing in it is a traceback, or an error of the mirror's own."""
        lines = self._mirror.program.said().splitlines()
        new, self._read = lines[self._read :], len(lines)
        odd = [line for line in new if not line.startswith("{") or '"level":"error"' in line or "_crashed" in line]
        if odd:
            self._tally.fail("crash", "in the log: " + "\n".join(odd[:40]), number)

    def check_astray(self) -> None:
        """That it connected to nothing but upstream, wrote nowhere but into its cache, and ran nothing."""
        for text in self._upstream.improper[:5]:
            self._tally.fail("malformed", f"sent upstream: {text}", None)
        for line in self._notes.read_text(errors="replace").splitlines():
            what, _, rest = line.partition(" ")
            if what == "connect":
                place = ast.literal_eval(rest)
                where = self._place(place[0], place[1])
                self._tally.connections[where] += 1
                if where != "upstream" and "public" not in where:
                    self._tally.fail("astray", f"connected to {place!r}", None)
            elif what == "run" or not self._is_ours(rest):
                self._tally.fail("astray", line, None)

    def _place(self, host: str, port: int) -> str:
        if (host, port) == (self._host, self._upstream.port):
            return "upstream"
        address = ip_address(host)
        is_public = address.is_global or address in _DOCUMENTATION
        return "public, as it was named" if is_public and not address.is_multicast else f"{host}:{port}"

    def _is_ours(self, rest: str) -> bool:
        try:
            path = os.fsdecode(ast.literal_eval(rest))
        except (ValueError, SyntaxError, TypeError):
            return True  # a descriptor, not a name
        inside = not path.startswith("/") or path.startswith((f"{self._cache}/", f"{self._cache}", "/dev/null"))
        return inside and ".." not in path.split("/")


def _is_whole(said: bytes) -> bool:
    try:
        return all(reply.whole for reply in replies(said))
    except Malformed:
        return False


@asynccontextmanager
async def stage(
    directory: Path, host: str, upstream: Upstream, upstreams: Mapping[str, str], tally: Tally
) -> AsyncIterator[Stage]:
    """A mirror for these upstreams, all of which lead to *upstream*; judged when the block ends."""
    cache, notes, config = directory / "cache", directory / "notes", directory / "mirror.toml"
    sections = (
        f'[upstreams."{name}"]\nurl = "{url}"\ndefault = {str(name == "docker.io").lower()}\n'
        for name, url in upstreams.items()
    )
    config.write_text(_SETTINGS + "".join(sections))
    argv = [sys.executable, "-m", "tests.fuzz.watched", str(notes), "serve", "--listen", "127.0.0.1:0"]
    argv += ["--cache", str(cache), "--log-format", "json", "--config", str(config)]
    async with running(argv, log=directory / "mirror.observability.log", env=environment()) as program:
        mirror = Mirror(program, cache)
        await mirror.serving()
        staged = Stage(mirror, upstream, notes, cache, host, tally)
        yield staged
        await staged.check_health(None)
        await _ended(program, tally)
        staged.check_log(None)
        staged.check_astray()


async def _ended(program: Program, tally: Tally) -> None:
    if not program.running:
        tally.fail("crash", f"the mirror is dead: {program}", None)
    elif (code := await program.stop()) != 0:
        tally.fail("crash", f"exit code {code} after SIGTERM", None)
