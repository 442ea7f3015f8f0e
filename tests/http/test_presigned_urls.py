"""Presigned URLs are secrets: whatever fails behind a redirect, neither responses nor the log contain them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.fake.content import Blob
from tests.fake.faults import Redirect
from tests.http.client import Client
from tests.http.upstreams import Upstream
from tests.real.mirror import Mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "SIGNED-FOR-US"
QUERY = f"X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}"
MALFORMED = {
    "header": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nBad Header\x00: y\r\n\r\nhello",
    "status line": b"HTTP/1.1 many things\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\nhello\r\n0\r\n\r\n",
    "later chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n",
    "long header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
    "nothing": b"",
}
ASTRAY = (
    f"http://127.0.0.1:99999/?{QUERY}",
    f"http://[::1/?{QUERY}",
    f"http://nowhere.invalid/?{QUERY}",
    f"http://127.0.0.1:1/\x7f?{QUERY}",
)


@contextlib.asynccontextmanager
async def server_sending(answer: bytes) -> AsyncIterator[str]:
    """Run a server that sends these bytes for every request, and disconnects; yield its URL."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(say, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/data"


async def assert_query_not_disclosed(client: Client, upstream: Upstream, mirror: Mirror, location: str) -> None:
    """Check that pulls redirected to this URL fail, and that neither responses nor the log contain its query."""
    upstream.registry.inject(Redirect(location))
    said = len(mirror.program.said())
    targets = (upstream.manifest("v1"), upstream.blob(Blob.noise(10)))
    for target in targets:
        reply = await client.get(target)
        assert reply.status >= 500, reply
        assert SECRET not in str(reply.error)
        assert SECRET not in str(reply.headers)
    await mirror.program.until(
        lambda: mirror.program.said().count('"event":"pull_failed"', said) == len(targets), within=5
    )
    assert SECRET not in mirror.program.said()[said:]


@pytest.mark.parametrize("how", MALFORMED)
async def test_malformed_response_does_not_disclose_the_url(
    client: Client, upstream: Upstream, mirror: Mirror, how: str
) -> None:
    """Exceptions of the HTTP library may contain the URL; the mirror's messages must not."""
    async with server_sending(MALFORMED[how]) as address:
        await assert_query_not_disclosed(client, upstream, mirror, f"{address}?{QUERY}")


@pytest.mark.parametrize("location", ASTRAY, ids=range(len(ASTRAY)))
async def test_invalid_redirect_does_not_disclose_the_url(
    client: Client, upstream: Upstream, mirror: Mirror, location: str
) -> None:
    """A redirect to an unusable URL."""
    await assert_query_not_disclosed(client, upstream, mirror, location)
