"""Public images behind a token server: no login is configured, a token is needed all the same."""

import asyncio

import pytest

from tests.fake.content import image
from tests.fake.faults import Status
from tests.fake.tokens import Basic, Bearer, TokenServer
from tests.http.client import Client
from tests.http.upstreams import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_an_anonymous_token(client: Client, upstream: Upstream, tokens: TokenServer) -> None:
    """Asked for without a login, once."""
    upstream.registry.gate = Bearer(tokens=tokens)
    manifest = upstream.publish(image(1, 2, 3), "v1")
    assert (await client.get(upstream.manifest("v1"))).body == manifest.content
    replies = await asyncio.gather(*(client.get(upstream.blob(blob)) for blob in manifest.blobs))
    assert [reply.body for reply in replies] == [blob.content for blob in manifest.blobs]
    (seen,) = tokens.asked
    assert "Authorization" not in seen.headers


@pytest.mark.parametrize("code", [401, 403])
async def test_no_token_for_the_anonymous(client: Client, upstream: Upstream, tokens: TokenServer, code: int) -> None:
    """GHCR's way to say that a package is private or absent: 404 without a challenge."""
    upstream.registry.gate = Bearer(tokens=tokens)
    upstream.publish(image(1), "v1")
    tokens.inject(Status(code))
    reply = await client.get(upstream.manifest("v1"))
    assert reply.status == 404, reply
    assert upstream.name in str(reply.error["message"])
    assert "WWW-Authenticate" not in reply.headers


async def test_a_login_is_wanted_and_there_is_none(client: Client, upstream: Upstream) -> None:
    """Basic without a configured login: 404, and the message says what to configure."""
    upstream.registry.gate = Basic("a", "b")
    upstream.publish(image(1), "v1")
    reply = await client.get(upstream.manifest("v1"))
    assert reply.status == 404, reply
    assert "username" in str(reply.error["message"])
    assert "WWW-Authenticate" not in reply.headers


async def test_a_gate_that_closes_and_opens(client: Client, upstream: Upstream, tokens: TokenServer) -> None:
    """An open registry that begins to want tokens, and then doesn't any more, is followed."""
    for number, gate in enumerate((None, Bearer(tokens=tokens), None, Bearer(tokens=tokens, quoted=False))):
        upstream.registry.gate = gate
        tokens.revoke()
        manifest = upstream.publish(image(number + 1), f"v{number}")
        assert (await client.get(upstream.manifest(f"v{number}"))).body == manifest.content
