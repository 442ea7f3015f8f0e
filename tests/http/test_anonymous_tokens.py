"""Public images behind a token service: no login is configured, but a token is needed."""

import asyncio

import pytest

from tests.fake.content import image
from tests.fake.faults import Status
from tests.fake.tokens import Basic, Bearer, TokenServer
from tests.http.client import Client
from tests.http.upstreams import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_anonymous_token_is_requested_once(client: Client, upstream: Upstream, tokens: TokenServer) -> None:
    """One token request, without a login."""
    upstream.registry.gate = Bearer(tokens=tokens)
    manifest = upstream.publish(image(1, 2, 3), "v1")
    assert (await client.get(upstream.manifest("v1"))).body == manifest.content
    replies = await asyncio.gather(*(client.get(upstream.blob(blob)) for blob in manifest.blobs))
    assert [reply.body for reply in replies] == [blob.content for blob in manifest.blobs]
    (seen,) = tokens.asked
    assert "Authorization" not in seen.headers


@pytest.mark.parametrize("code", [401, 403])
async def test_refused_anonymous_token_is_404(
    client: Client, upstream: Upstream, tokens: TokenServer, code: int
) -> None:
    """GHCR refuses a token for private and for missing packages: 404 without a challenge."""
    upstream.registry.gate = Bearer(tokens=tokens)
    upstream.publish(image(1), "v1")
    tokens.inject(Status(code))
    reply = await client.get(upstream.manifest("v1"))
    assert reply.status == 404, reply
    assert upstream.name in str(reply.error["message"])
    assert "WWW-Authenticate" not in reply.headers


async def test_missing_login_for_basic_is_404(client: Client, upstream: Upstream) -> None:
    """Basic without a configured login: 404, and the message names the setting."""
    upstream.registry.gate = Basic("a", "b")
    upstream.publish(image(1), "v1")
    reply = await client.get(upstream.manifest("v1"))
    assert reply.status == 404, reply
    assert "username" in str(reply.error["message"])
    assert "WWW-Authenticate" not in reply.headers


async def test_upstream_may_start_and_stop_requiring_tokens(
    client: Client, upstream: Upstream, tokens: TokenServer
) -> None:
    """The mirror adapts when a registry begins to require tokens, and when it stops."""
    for number, gate in enumerate((None, Bearer(tokens=tokens), None, Bearer(tokens=tokens, quoted=False))):
        upstream.registry.gate = gate
        tokens.revoke()
        manifest = upstream.publish(image(number + 1), f"v{number}")
        assert (await client.get(upstream.manifest(f"v{number}"))).body == manifest.content
