"""A mirror in front of a fuzzed upstream, and the conditions that must hold whatever it receives."""

import ast
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path

from tests.fuzz.replies import Malformed, replies
from tests.fuzz.statistics import Statistics
from tests.fuzz.upstream import Upstream
from tests.real.mirror import Mirror, environment
from tests.real.program import Program, running

HEALTHY_WITHIN = 5.0  # seconds
_HEALTH = b"GET /healthz HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\r\n"
_DOCUMENTATION = ip_network("203.0.113.0/24")
_SETTINGS = '[timeouts]\nconnect = "1s"\nfirst_byte = "1s"\nsilence = "1s"\nshutdown = "2s"\n'


class WatchedMirror:
    """A mirror process with an audit log of its connections, writes and programs."""

    def __init__(
        self, mirror: Mirror, upstream: Upstream, audit_log: Path, cache: Path, host: str, statistics: Statistics
    ) -> None:
        self._mirror = mirror
        self._upstream = upstream
        self._audit_log = audit_log
        self._cache = cache
        self._host = host
        self._statistics = statistics
        self._lines_checked = 0  # lines of the log already checked

    @property
    def port(self) -> int:
        return self._mirror.port

    async def exchange(self, *pieces: bytes, quiet: float | None, within: float) -> tuple[bytes, bool]:
        """Send the pieces to the mirror and return its response.

        Args:
            quiet: seconds without a byte after which a complete response is the last; None: until the mirror closes.

        Returns:
            The received bytes, and whether they are all; False if *within* seconds passed first.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
        received = b""
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
                        if quiet is not None and _is_whole(received):
                            return received, True
                        continue
                    if not more:
                        return received, True
                    received += more
        except ConnectionError:
            return received, True
        except TimeoutError:
            return received, False
        finally:
            writer.transport.abort()

    async def check_health(self, number: int | None) -> None:
        """Check that the mirror is alive and answers at once."""
        received, whole = await self.exchange(_HEALTH, quiet=None, within=HEALTHY_WITHIN)
        if not whole or b"alive" not in received:
            state = "late" if self._mirror.program.running else "dead"
            self._statistics.fail(
                "hang" if state == "late" else "crash", f"/healthz: {state} {received[:200]!r}", number
            )

    def check_log(self, number: int | None) -> None:
        """Check that the log has no traceback and no error of the mirror itself."""
        lines = self._mirror.program.said().splitlines()
        new, self._lines_checked = lines[self._lines_checked :], len(lines)
        odd = [line for line in new if not line.startswith("{") or '"level":"error"' in line or "_crashed" in line]
        if odd:
            self._statistics.fail("crash", "in the log: " + "\n".join(odd[:40]), number)

    def check_audit_log(self) -> None:
        """Check that the mirror connected only to the upstream, wrote only in its cache, and ran no program."""
        for text in self._upstream.improper[:5]:
            self._statistics.fail("malformed", f"sent upstream: {text}", None)
        for line in self._audit_log.read_text(errors="replace").splitlines():
            what, _, rest = line.partition(" ")
            if what == "connect":
                place = ast.literal_eval(rest)
                where = self._destination(place[0], place[1])
                self._statistics.connections[where] += 1
                if where != "upstream" and "public" not in where:
                    self._statistics.fail("astray", f"connected to {place!r}", None)
            elif what == "run" or not self._is_in_cache(rest):
                self._statistics.fail("astray", line, None)

    def _destination(self, host: str, port: int) -> str:
        if (host, port) == (self._host, self._upstream.port):
            return "upstream"
        address = ip_address(host)
        is_public = address.is_global or address in _DOCUMENTATION
        return "public, as it was named" if is_public and not address.is_multicast else f"{host}:{port}"

    def _is_in_cache(self, rest: str) -> bool:
        try:
            path = os.fsdecode(ast.literal_eval(rest))
        except (ValueError, SyntaxError, TypeError):
            return True  # a descriptor, not a name
        inside = not path.startswith("/") or path.startswith((f"{self._cache}/", f"{self._cache}", "/dev/null"))
        return inside and ".." not in path.split("/")


def _is_whole(received: bytes) -> bool:
    try:
        return all(reply.whole for reply in replies(received))
    except Malformed:
        return False


@asynccontextmanager
async def watched_mirror(
    directory: Path, host: str, upstream: Upstream, upstreams: Mapping[str, str], statistics: Statistics
) -> AsyncIterator[WatchedMirror]:
    """Yield a mirror whose *upstreams* all lead to *upstream*; check it at the end of the block."""
    cache, audit_log, config = directory / "cache", directory / "audit_log", directory / "mirror.toml"
    sections = (
        f'[upstreams."{name}"]\nurl = "{url}"\ndefault = {str(name == "docker.io").lower()}\n'
        for name, url in upstreams.items()
    )
    config.write_text(_SETTINGS + "".join(sections))
    argv = [sys.executable, "-m", "tests.fuzz.audited", str(audit_log), "serve", "--listen", "127.0.0.1:0"]
    argv += ["--cache", str(cache), "--log-format", "json", "--config", str(config)]
    async with running(argv, log=directory / "mirror.log", env=environment()) as program:
        mirror = Mirror(program, cache)
        await mirror.serving()
        watched = WatchedMirror(mirror, upstream, audit_log, cache, host, statistics)
        yield watched
        await watched.check_health(None)
        await _ended(program, statistics)
        watched.check_log(None)
        watched.check_audit_log()


async def _ended(program: Program, statistics: Statistics) -> None:
    if not program.running:
        statistics.fail("crash", f"the mirror is dead: {program}", None)
    elif (code := await program.stop()) != 0:
        statistics.fail("crash", f"exit code {code} after SIGTERM", None)
