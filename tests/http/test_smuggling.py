"""Request smuggling: mirror and intermediaries must agree on where a request ends (RFC 9112, 11.2).

Each test sends bytes on one connection, followed by a hidden request. The number of responses shows whether the mirror
took it for a request.
"""

import asyncio
import re
from urllib.parse import urlsplit

import pytest

from tests.fake.content import Blob
from tests.fuzz.replies import Reply, replies
from tests.http.client import Client
from tests.http.upstreams import CALM, Upstream
from tests.real.mirror import Mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = CALM + '[limits]\nhead = "2s"\n'
HEAD = b"GET /v2/ HTTP/1.1\r\nHost: mirror\r\n"
INNER = b"GET /healthz HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\r\n"
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(INNER), INNER)

AMBIGUOUS = {
    "length and chunked": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "a list of lengths": b"Content-Length: 4, 5\r\n\r\nabcde",
    "a signed length": b"Content-Length: +4\r\n\r\nabcd",
    "a negative length": b"Content-Length: -4\r\n\r\nabcd",
    "a hexadecimal length": b"Content-Length: 0x4\r\n\r\nabcd",
    "a length beyond all": b"Content-Length: 99999999999999999999\r\n\r\nabcd",
    "a blank before the colon": b"Content-Length : 4\r\n\r\nabcd",
    "an unknown coding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked, not last": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a hidden coding": b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "a coding on the next line": b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a chunk of no size": b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabcd\r\n0\r\n\r\n",
    "a chunk of negative size": b"Transfer-Encoding: chunked\r\n\r\n-4\r\nabcd\r\n0\r\n\r\n",
    "a chunk beyond all": b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nabcd\r\n0\r\n\r\n",
    "chunks by bare line feeds": b"Transfer-Encoding: chunked\r\n\r\n4\nabcd\n0\n\n",
    "a bare line feed in a header": b"X: a\nContent-Length: 4\r\n\r\nabcd",
    "a bare carriage return in a header": b"X: a\rContent-Length: 4\r\n\r\nabcd",
    "a folded header": b"X: a\r\n b\r\n\r\n",
    "NUL in a value": b"X: a\0b\r\n\r\n",
    "NUL in a name": b"X\0: a\r\n\r\n",
    "a header without a name": b": a\r\n\r\n",
    "a header without a colon": b"abc\r\n\r\n",
    "a second host": b"Host: other\r\n\r\n",
}


async def replies_to(client: Client, text: bytes) -> list[Reply]:
    """Return all responses to these bytes, until the mirror closes."""
    return replies(await client.raw(text))


@pytest.mark.parametrize("case", AMBIGUOUS)
async def test_ambiguous_request_is_refused(client: Client, case: str) -> None:
    """400 with an OCI error, then the connection is closed: the following bytes are not parsed."""
    (reply,) = await replies_to(client, HEAD + AMBIGUOUS[case] + INNER)
    assert reply.status == 400, reply
    assert reply.headers["connection"] == "close"


@pytest.mark.parametrize(
    "line",
    [
        b"GET /v2/ HTTP/1.1\nHost: mirror\n\n",
        b"GET /v2/ HTTP/1.1\rHost: mirror\r\r",
        b"GET /v2/\r\n\r\n",
        b"GET /v2/ HTTP/0.9\r\n\r\n",
        b"GET /v2/ HTTP/2.0\r\nHost: mirror\r\n\r\n",
        b"GET /v2/ HTTP/1.10\r\nHost: mirror\r\n\r\n",
        b"GET /v2/ http/1.1\r\nHost: mirror\r\n\r\n",
        b"GET\t/v2/\tHTTP/1.1\r\nHost: mirror\r\n\r\n",
        b"GET /v2/ x HTTP/1.1\r\nHost: mirror\r\n\r\n",
        b"GET /v2/\0 HTTP/1.1\r\nHost: mirror\r\n\r\n",
        b"GET /v2/\xff HTTP/1.1\r\nHost: mirror\r\n\r\n",
        b"G\x01T /v2/ HTTP/1.1\r\nHost: mirror\r\n\r\n",
        b"get /v2/ HTTP/1.1\r\nHost: mirror\r\n\r\n",
        b"GET v2/ HTTP/1.1\r\nHost: mirror\r\n\r\n",
        b"GET @169.254.169.254/ HTTP/1.1\r\nHost: mirror\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\n Host: mirror\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\n\r\n",  # no Host (RFC 9112, 3.2)
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,  # TLS
    ],
)
async def test_malformed_request_is_refused(client: Client, line: bytes) -> None:
    """The error does not repeat the client's bytes."""
    (reply,) = await replies_to(client, line + INNER)
    assert reply.status == 400, reply
    assert reply.headers["connection"] == "close"
    assert b"v2" not in reply.body
    assert "server" not in reply.headers


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"POST"])
@pytest.mark.parametrize(
    "framed", [b"Content-Length: %d\r\n\r\n%s" % (len(INNER), INNER), b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED]
)
async def test_request_body_is_not_parsed_as_a_request(client: Client, method: bytes, framed: bytes) -> None:
    """The body is skipped; the next request follows it."""
    first, second = await replies_to(client, b"%s /v2/ HTTP/1.1\r\nHost: mirror\r\n" % method + framed + INNER)
    assert first.status == (200 if method in {b"GET", b"HEAD"} else 405)
    assert (second.status, second.body) == (200, b'{"status":"alive"}')


async def test_incomplete_body_is_not_parsed_as_a_request(client: Client) -> None:
    """Bytes within the declared length belong to the body."""
    address = urlsplit(client.base)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(HEAD + b"Content-Length: 100000\r\n\r\n" + INNER)
    assert (await reader.readuntil(b"{}")).startswith(b"HTTP/1.1 200 OK\r\n")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await reader.read(1)
    writer.close()


async def test_pipelined_requests_are_answered_in_order(client: Client) -> None:
    """RFC 9112, 9.3.2."""
    paths = [b"/v2/", b"/healthz", b"/none"] * 10
    found = await replies_to(
        client, b"".join(b"GET %s HTTP/1.1\r\nHost: mirror\r\n\r\n" % path for path in paths) + INNER
    )
    assert [reply.status for reply in found] == [200, 200, 404] * 10 + [200]


async def test_chunked_in_http_1_0_is_refused(client: Client) -> None:
    """An HTTP/1.0 intermediary ignores Transfer-Encoding and may take the body for a request (RFC 9112, 6.1)."""
    text = b"GET /v2/ HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    (reply,) = await replies_to(client, text + INNER)
    assert reply.status == 400, reply


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"TLS/1.0"])
async def test_upgrade_is_ignored(client: Client, protocol: bytes) -> None:
    """The connection stays HTTP/1.1; bytes in another protocol get no response."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\nHTTP2-Settings: AAMAAABk\r\n\r\n" % protocol
    reply, *_ = await replies_to(client, HEAD + upgrade + INNER)
    assert (reply.status, reply.body) == (200, b"{}")


@pytest.mark.parametrize("text", [b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\nabcd", b"Expect: tea\r\n\r\n"])
async def test_expect_is_answered_at_once(client: Client, text: bytes) -> None:
    """The body is not needed, so the final response is sent without 100 (RFC 9110, 10.1.1)."""
    first, second = await replies_to(client, HEAD + text + INNER)
    assert (first.status, second.status) == (200, 200)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"http://169.254.169.254/latest/meta-data/", 404),
        (b"http://mirror/v2/", 404),
        (b"https://other.test/v2/", 404),
        (b"//169.254.169.254/v2/", 404),
        (b"/v2/a/manifests/x%0d%0aHost:%20other", 400),
        (b"/v2/a%2f..%2f..%2fb/manifests/x", 400),
        (b"/v2/a/../../b/manifests/x", 400),
        (b"/v2/a\\..\\b/manifests/x", 400),
        (b"/v2/a/manifests/..", 400),
        (b"/v2/a/blobs/../../../../etc/passwd", 400),
        (b"/v2/a/blobs/sha256:../../../../etc/passwd", 400),
        (b"/v2/a/tags/list?ns=169.254.169.254", 404),
        (b"/v2/169.254.169.254:80/a/manifests/x", 400),
    ],
)
async def test_target_is_never_connected_to(client: Client, upstream: Upstream, target: bytes, status: int) -> None:
    """Addresses and paths in a target are looked up as names only."""
    (reply,) = await replies_to(client, b"GET %s HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\r\n" % target)
    assert reply.status in {status, 404}, reply
    assert not upstream.registry.journal.entries


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"GET /v2/" + b"a" * 9000 + b" HTTP/1.1\r\nHost: mirror\r\n\r\n", 431),
        (HEAD + b"X: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (HEAD + b"X" * 9000 + b": a\r\n\r\n", 431),
        (HEAD + b"".join(b"X-%d: a\r\n" % number for number in range(500)) + b"\r\n", 400),
    ],
)
async def test_head_size_is_limited(client: Client, text: bytes, status: int) -> None:
    """A line may have limits.head_size bytes; longer ones are refused and not kept."""
    (reply,) = await replies_to(client, text)
    assert reply.status == status, reply


async def test_endless_head_is_not_kept(client: Client) -> None:
    """The mirror neither waits for the end nor keeps the bytes in memory."""
    assert b"200 OK" not in await client.raw(HEAD + b"X: a")
    assert b"200 OK" not in await client.raw(b"GET /v2/" + b"a" * 5_000_000)


async def test_client_headers_are_not_sent_upstream(client: Client, upstream: Upstream) -> None:
    """All headers of upstream requests are the mirror's own."""
    blob = upstream.publish_blob(Blob.noise(1000))
    mark = "4ba4f6"
    names = (
        "Cookie",
        "Authorization",
        "X-Forwarded-For",
        "Forwarded",
        "User-Agent",
        "Referer",
        "Accept",
        "Via",
        "If-Match",
    )
    headers = {name: mark if name != "Authorization" else f"Bearer {mark}" for name in names}
    reply = await client.get(f"{upstream.blob(blob)}?{mark}=1", headers)
    assert reply.status == 200, reply
    assert (await client.get(f"/v2/{upstream.name}/team/app/manifests/v1?{mark}=1", headers)).status == 404
    for seen in upstream.registry.journal.entries:
        assert mark not in seen.target + str(dict(seen.headers))


async def test_malformed_authorization_is_not_logged(client: Client, mirror: Mirror) -> None:
    """The log describes the error without the client's bytes."""
    secret = b"c2VjcmV0LXRoYXQtbm9ib2R5LXNlZXM"
    assert b" 400 " in await client.raw(HEAD + b"Authorization: Basic " + secret + b"\0\r\n\r\n")
    assert b" 431 " in await client.raw(HEAD + b"Authorization: Bearer " + secret * 300 + b"\r\n\r\n")
    async with asyncio.timeout(10):
        while len(mirror.events("request_malformed")) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert not re.search(secret.decode()[:16], mirror.program.said())
