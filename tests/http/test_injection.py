"""Header injection by an upstream: its headers are parsed, checked and written again, never copied to clients."""

import contextlib
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.fuzz.replies import Reply, replies
from tests.fuzz.upstream import Content, Request, Response, Upstream, plain
from tests.http.client import Client
from tests.http.upstreams import IMPATIENT, section
from tests.real.mirror import mirror as running_mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONTENT = Content(1, layers=(300,))
MARK = "4ba4f6"
SETTLED = {
    "a folded type": b"Content-Type: a/b\r\n " + MARK.encode(),
    "a type with a line feed": b"Content-Type: a/b\nX-Injected: " + MARK.encode(),
    "a type with a carriage return": b"Content-Type: a/b\rX-Injected: " + MARK.encode(),
    "a type with NUL": b"Content-Type: a/b\0" + MARK.encode(),
    "a type that is no text": b"Content-Type: \xff\xfe/" + MARK.encode(),
    "a type with parameters": b'Content-Type: a/b; x="' + MARK.encode() + b'"',
    "a huge type": b"Content-Type: " + MARK.encode() * 10_000,
    "a digest that is a path": b"Docker-Content-Digest: ../../" + MARK.encode(),
    "a cookie": b"Set-Cookie: " + MARK.encode(),
    "headers of the connection": b"Connection: X-A\r\nX-A: " + MARK.encode(),
    "a challenge with a 200": b"WWW-Authenticate: Basic realm=" + MARK.encode(),
    "a server": b"Server: " + MARK.encode(),
    "a thousand headers": b"\r\n".join(b"X-%d: %s" % (number, MARK.encode()) for number in range(1000)),
    "a link": b"Link: <http://other.test/?%0d%0aX=" + MARK.encode() + b'&y="<>>; rel="next"',
    "a link without an end": b"Link: <" + MARK.encode() * 500,
    "a Retry-After": b"Retry-After: " + MARK.encode(),
}


class Stage:
    """A mirror whose upstream sends one extra header."""

    def __init__(self) -> None:
        self.client: Client
        self.header = b""
        self.status = 200
        self._names = 0

    def answer(self, request: Request) -> Response:
        right = CONTENT.answer(request) if self.status == 200 else plain(request, self.status, b"{}")
        name = self.header.partition(b":")[0].lower()
        first, *lines = right.partition(b"\r\n\r\n")[0].split(b"\r\n")
        kept = [line for line in lines if line.partition(b":")[0].lower() != name]
        return Response(b"\r\n".join((first, *kept, self.header)) + b"\r\n\r\n" + right.partition(b"\r\n\r\n")[2])

    async def reply_to(self, kind: str) -> Reply:
        """Return the reply to a request for a new name, which is not cached."""
        self._names += 1
        path = f"/v2/u{self._names}.test/a/{kind}"
        (reply,) = replies(
            await self.client.raw(f"GET {path} HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\r\n".encode())
        )
        return reply


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    staged = Stage()
    directory = tmp_path_factory.mktemp("mirror")
    async with contextlib.AsyncExitStack() as exits:
        upstream = await exits.enter_async_context(Upstream.running("127.0.0.1", staged.answer))
        names = (f"u{number}.test" for number in range(1, 100))
        config = directory / "mirror.toml"
        config.write_text(IMPATIENT + "".join(section(name, f"http://127.0.0.1:{upstream.port}") for name in names))
        mirror = await exits.enter_async_context(running_mirror(directory, "--config", str(config)))
        staged.client = await exits.enter_async_context(Client.of(mirror.url))
        yield staged


@pytest.mark.parametrize("kind", ["manifests/latest", f"blobs/{CONTENT.layers[0]}", "tags/list"])
@pytest.mark.parametrize("case", SETTLED)
async def test_upstream_header_is_not_copied(stage: Stage, case: str, kind: str) -> None:
    """Whether upstream's header is valid or refused, the response is well formed and contains none of its text."""
    stage.header, stage.status = SETTLED[case], 200
    reply = await stage.reply_to(kind)
    assert reply.status in {200, 502, 503, 504}, reply
    link = reply.headers.pop("link", "</v2/")  # to the mirror's own next page, with upstream's query
    assert link.startswith("</v2/")
    assert link.count("<") == 1
    assert MARK not in str(reply.headers)
    assert "\\r" not in str(reply.headers)
    assert not set(reply.headers) & {"x-injected", "set-cookie", "www-authenticate", "server", "x-a", "x-1"}


@pytest.mark.parametrize("status", [401, 403, 429, 500])
async def test_upstream_header_of_an_error_is_not_copied(stage: Stage, status: int) -> None:
    """A challenge would make clients send their login to the mirror; Retry-After must be a plain number."""
    stage.header, stage.status = b"Retry-After: " + MARK.encode() + b"\r\nWWW-Authenticate: Basic", status
    reply = await stage.reply_to("manifests/latest")
    assert reply.status in {404, 429, 503}, reply
    assert "www-authenticate" not in reply.headers
    assert reply.headers.get("retry-after", "1").isdecimal()
    assert json.loads(reply.body)["errors"][0]["message"]
