"""An HTTP client that sends requests byte for byte, and distinguishes a truncated body from a complete one."""

import asyncio
import contextlib
import hashlib
import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

WITHIN = 20.0  # time limit of one exchange, in seconds

Headers = Mapping[str, str] | CIMultiDict[str]


@dataclass(frozen=True, slots=True)
class Reply:
    """A response as received."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    whole: bool  # False: the connection ended before the body did

    @property
    def cache_status(self) -> str:
        """Cache-Status, empty when there is none."""
        return self.headers.get("Cache-Status", "")

    @property
    def length(self) -> int:
        """Content-Length, which must be present."""
        return int(self.headers["Content-Length"])

    @property
    def digest(self) -> str:
        """The sha256 digest of the body."""
        return f"sha256:{hashlib.sha256(self.body).hexdigest()}"

    @property
    def error(self) -> dict[str, object]:
        """The first OCI error of the body, whose format is checked."""
        assert self.headers["Content-Type"] == "application/json", self
        errors = json.loads(self.body)["errors"]
        assert isinstance(errors, list)
        first = errors[0]
        assert isinstance(first, dict)
        assert set(first) == {"code", "message", "detail"}, first
        assert re.fullmatch("[A-Z_]+", str(first["code"])), first
        assert first["message"], first
        assert first["detail"] is not None, first
        return first

    def __str__(self) -> str:
        ending = "" if self.whole else " (truncated)"
        return f"{self.status} {dict(self.headers)} {len(self.body)} bytes{ending}: {self.body[:300]!r}"


class Client:
    """Sends each request on its own connection; adds no headers, decodes no bodies, follows no redirects."""

    def __init__(self, base: str, session: aiohttp.ClientSession) -> None:
        self.base = base
        self._session = session

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, base: str, *, tls: ssl.SSLContext | None = None) -> AsyncIterator["Client"]:
        """Open a client for the server at this address until the block ends.

        Args:
            tls: trusted authorities and client certificate; None for plain HTTP.
        """
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True, ssl=tls or True),
            timeout=aiohttp.ClientTimeout(total=WITHIN),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        )
        async with session:
            yield cls(base, session)

    @contextlib.asynccontextmanager
    async def open(
        self, target: str, headers: Headers | None = None, method: str = "GET"
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and yield the response with its body unread; leaving the block closes the connection."""
        address = URL(self.base + target, encoded=True)
        async with self._session.request(method, address, headers=headers, allow_redirects=False) as answer:
            try:
                yield answer
            finally:
                answer.close()

    async def ask(self, method: str, target: str, headers: Headers | None = None) -> Reply:
        """Send one request, and read the body to its end or to the disconnect."""
        async with self.open(target, headers, method) as answer:
            body, whole = await read_rest(answer)
            return Reply(answer.status, answer.headers, body, whole)

    async def get(self, target: str, headers: Headers | None = None) -> Reply:
        """Send a GET."""
        return await self.ask("GET", target, headers)

    async def head(self, target: str, headers: Headers | None = None) -> Reply:
        """Send a HEAD."""
        return await self.ask("HEAD", target, headers)

    async def raw(self, request: bytes) -> bytes:
        """Send these bytes, and return everything received until the mirror closes the connection."""
        address = URL(self.base)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        try:
            writer.write(request)
            async with asyncio.timeout(WITHIN):
                return await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def poll_until(ask: Callable[[], Awaitable[Reply]], good: Callable[[Reply], bool]) -> Reply:
    """Repeat a request until its response is accepted by *good*, at most for the time limit of one exchange."""
    reply = await ask()
    try:
        async with asyncio.timeout(WITHIN):
            while not good(reply):
                await asyncio.sleep(0.1)
                reply = await ask()
    except TimeoutError:
        raise AssertionError(f"no accepted reply within {WITHIN} s, the last one was: {reply}") from None
    return reply


async def wait_until_cached(client: Client, *targets: str) -> None:
    """Wait until these targets are hits: a blob is stored a moment after it was served."""
    for target in targets:
        await poll_until(lambda: client.head(target), lambda reply: reply.cache_status == "mirror; hit")  # noqa: B023


async def read_rest(answer: aiohttp.ClientResponse) -> tuple[bytes, bool]:
    """Read the rest of a body; return it, and whether it ended properly."""
    body = bytearray()
    try:
        async for chunk in answer.content.iter_any():
            body += chunk
    except (aiohttp.ClientPayloadError, ConnectionError):
        return bytes(body), False
    return bytes(body), True
