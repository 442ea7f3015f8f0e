"""A client that sends what it is told, byte for byte, and tells a cut body from a whole one."""

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

WITHIN = 20.0  # seconds that any one exchange may take

Headers = Mapping[str, str] | CIMultiDict[str]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it arrived."""

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
        """Content-Length; missing is an error."""
        return int(self.headers["Content-Length"])

    @property
    def digest(self) -> str:
        """What the body's bytes hash to, with sha256."""
        return f"sha256:{hashlib.sha256(self.body).hexdigest()}"

    @property
    def error(self) -> dict[str, object]:
        """The first of the OCI errors in the body, which has to be one."""
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
        ending = "" if self.whole else " (cut)"
        return f"{self.status} {dict(self.headers)} {len(self.body)} bytes{ending}: {self.body[:300]!r}"


class Client:
    """Asks the mirror; every request on a connection of its own, nothing added, nothing decoded, nothing followed."""

    def __init__(self, base: str, session: aiohttp.ClientSession) -> None:
        self.base = base
        self._session = session

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, base: str, *, tls: ssl.SSLContext | None = None) -> AsyncIterator["Client"]:
        """A client for the server at this address, as long as the block lasts.

        Args:
            tls: whom it trusts, and what it shows; None for plain HTTP.
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
        """An answer whose body is still to be read; leaving the block leaves the connection."""
        address = URL(self.base + target, encoded=True)
        async with self._session.request(method, address, headers=headers, allow_redirects=False) as answer:
            try:
                yield answer
            finally:
                answer.close()

    async def ask(self, method: str, target: str, headers: Headers | None = None) -> Reply:
        """One exchange, to the end of the body or to where it was cut."""
        async with self.open(target, headers, method) as answer:
            body, whole = await rest_of(answer)
            return Reply(answer.status, answer.headers, body, whole)

    async def get(self, target: str, headers: Headers | None = None) -> Reply:
        """GET."""
        return await self.ask("GET", target, headers)

    async def head(self, target: str, headers: Headers | None = None) -> Reply:
        """HEAD."""
        return await self.ask("HEAD", target, headers)

    async def raw(self, request: bytes) -> bytes:
        """Whatever comes back for these bytes, until the mirror closes the connection."""
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


async def settled(ask: Callable[[], Awaitable[Reply]], good: Callable[[Reply], bool]) -> Reply:
    """The first answer that is good: asked for again and again, within the bound of one exchange."""
    reply = await ask()
    try:
        async with asyncio.timeout(WITHIN):
            while not good(reply):
                await asyncio.sleep(0.1)
                reply = await ask()
    except TimeoutError:
        raise AssertionError(f"not settled within {WITHIN} s, at last: {reply}") from None
    return reply


async def kept(client: Client, *targets: str) -> None:
    """Wait until these are hits: a blob is served when it is verified, and in the cache a moment later."""
    for target in targets:
        await settled(lambda: client.head(target), lambda reply: reply.cache_status == "mirror; hit")  # noqa: B023


async def rest_of(answer: aiohttp.ClientResponse) -> tuple[bytes, bool]:
    """What is left of a body, and whether it came to its proper end."""
    body = bytearray()
    try:
        async for chunk in answer.content.iter_any():
            body += chunk
    except (aiohttp.ClientPayloadError, ConnectionError):
        return bytes(body), False
    return bytes(body), True
