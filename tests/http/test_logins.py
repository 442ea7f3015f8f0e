"""The mirror's logins at upstreams: Basic and Bearer in every spelling, few token requests, no leaked secrets."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fake.answers import Valve
from tests.fake.content import Blob, Manifest, image
from tests.fake.faults import Fault, Hold, Reset, Status
from tests.fake.tokens import Basic, Bearer, TokenServer, basic
from tests.http.client import Client, poll_until
from tests.http.upstreams import IMPATIENT, Upstream, by_ns
from tests.real.mirror import Mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

USER, PASSWORD = "robot$pull", "pa:ss wörd+/="
CONFIG = IMPATIENT + '[tags]\nfresh_for = "0s"\nmissing_for = "1s"\n'
UPSTREAM = f'username = "{USER}"\npassword_file = "{{directory}}/password"\n'
FILES = {"password": f"{PASSWORD}\n"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenVariant:
    """Spelling of a registry's challenge and of its token service's response."""

    service: str | None = "registry.test"
    quoted: bool = True
    scoped: bool = True
    beside: tuple[str, ...] = ()
    same_line: str = ""
    fields: tuple[str, ...] = ("token",)
    expires_in: int | None = 300


VARIANTS = {
    "plain": TokenVariant(),
    "without service": TokenVariant(service=None),
    "unquoted": TokenVariant(quoted=False),
    "unquoted, without service": TokenVariant(quoted=False, service=None),
    "without scope": TokenVariant(scoped=False),
    "access_token": TokenVariant(fields=("access_token",)),
    "both tokens": TokenVariant(fields=("token", "access_token")),
    "no expires_in": TokenVariant(expires_in=None),
    "expires at once": TokenVariant(expires_in=0),
    "beside another line": TokenVariant(beside=("Negotiate",)),
    "beside another on its line": TokenVariant(same_line='Negotiate, Digest realm="a,b", nonce="x==", '),
}


def require_login(upstream: Upstream, tokens: TokenServer, variant: TokenVariant = VARIANTS["plain"]) -> None:
    """Set a gate that admits only the configured login."""
    tokens.logins = {USER: PASSWORD}
    tokens.fields, tokens.expires_in = variant.fields, variant.expires_in
    upstream.registry.gate = Bearer(
        tokens=tokens,
        service=variant.service,
        quoted=variant.quoted,
        scoped=variant.scoped,
        beside=variant.beside,
        same_line=variant.same_line,
    )


async def assert_pulled(client: Client, upstream: Upstream, manifest: Manifest) -> None:
    """Check that the whole image is served, as from an open registry."""
    reply = await client.get(upstream.manifest("v1"))
    assert (reply.status, reply.body) == (200, manifest.content), reply
    assert "Warning" not in reply.headers
    for blob in manifest.blobs:
        reply = await client.get(upstream.blob(blob))
        assert (reply.status, reply.body) == (200, blob.content), reply


@pytest.mark.parametrize("spelling", VARIANTS)
async def test_bearer_login_in_every_spelling(
    client: Client, upstream: Upstream, tokens: TokenServer, spelling: str
) -> None:
    """Challenges and tokens with and without service, scope, quotes and expiry, alone or beside others."""
    require_login(upstream, tokens, VARIANTS[spelling])
    manifest = upstream.publish(image(100, 200), "v1")
    await assert_pulled(client, upstream, manifest)
    for seen in tokens.asked:
        assert seen.headers["Authorization"] == basic(USER, PASSWORD)
        assert ("service=registry.test" in seen.query) == (VARIANTS[spelling].service is not None)
        assert "scope=repository" in seen.query


async def test_basic_login_to_upstream(client: Client, upstream: Upstream) -> None:
    """The configured login is used when the upstream requires Basic."""
    upstream.registry.gate = Basic(USER, PASSWORD)
    await assert_pulled(client, upstream, upstream.publish(image(100), "v1"))


async def test_basic_login_is_sent_unprompted_once_known(client: Client, upstream: Upstream) -> None:
    """Later requests send the login at once, without a challenge first."""
    upstream.registry.gate = Basic(USER, PASSWORD)
    await assert_pulled(client, upstream, upstream.publish(image(*range(1, 11)), "v1"))
    refused = [seen for seen in upstream.registry.journal.entries if seen.status == 401]
    assert len(refused) <= 2


async def test_one_token_per_pull(client: Client, upstream: Upstream, tokens: TokenServer) -> None:
    """One token request per scope, for any number of blobs, sequential or concurrent."""
    require_login(upstream, tokens)
    manifest = upstream.publish(image(*range(1, 41)), "v1")
    await client.get(upstream.manifest("v1"))
    replies = await asyncio.gather(*(client.get(upstream.blob(blob)) for blob in manifest.blobs))
    assert [reply.body for reply in replies] == [blob.content for blob in manifest.blobs]
    assert len(tokens.asked) == 1


async def test_concurrent_requests_share_one_token_request(
    client: Client, upstream: Upstream, tokens: TokenServer
) -> None:
    """The very first requests do too, if the token service is slow."""
    require_login(upstream, tokens)
    valve = Valve()
    tokens.inject(Hold(valve))
    manifest = upstream.publish(image(*range(1, 41)), "v1")
    asking = [asyncio.create_task(client.get(upstream.blob(blob))) for blob in manifest.blobs]
    await valve.reached()
    await asyncio.wait(asking, timeout=0.3)
    valve.open()
    assert [reply.status for reply in await asyncio.gather(*asking)] == [200] * 41
    assert len(tokens.asked) == 1


async def test_token_scope_is_one_repository(client: Client, upstream: Upstream, tokens: TokenServer) -> None:
    """Each repository gets its own token."""
    require_login(upstream, tokens)
    blob = upstream.publish_blob(Blob.noise(100))
    other = Blob.noise(100)
    upstream.registry.add("other/app", other)
    assert (await client.get(upstream.blob(blob))).body == blob.content
    assert (await client.get(f"/v2/{upstream.name}/other/app/blobs/{other.digest}")).body == other.content
    assert len(tokens.asked) == 2


async def test_expired_token_is_renewed_during_a_pull(client: Client, upstream: Upstream, tokens: TokenServer) -> None:
    """Renewed once for all requests that need it; clients do not notice."""
    require_login(upstream, tokens)
    manifest = upstream.publish(image(*range(1, 21)), "v1")
    await client.get(upstream.manifest("v1"))
    tokens.revoke()
    replies = await asyncio.gather(*(client.get(upstream.blob(blob)) for blob in manifest.blobs))
    assert [reply.body for reply in replies] == [blob.content for blob in manifest.blobs]
    assert len(tokens.asked) == 2


async def test_expired_token_with_another_realm(client: Client, upstream: Upstream, tokens: TokenServer) -> None:
    """nvcr.io answers expired tokens with an unusable realm: drop the token, and repeat the request without it."""
    require_login(upstream, tokens)
    async with TokenServer.running() as dead_end:
        dead_end.logins = {"nobody": "knows"}
        upstream.registry.gate = Bearer(tokens=tokens, realm_after_expiry=dead_end.realm)
        manifest = upstream.publish(image(1, 2), "v1")
        await client.get(upstream.manifest("v1"))
        tokens.revoke()
        await assert_pulled(client, upstream, manifest)


@pytest.mark.parametrize("code", [401, 403])
async def test_refused_login_is_404(client: Client, upstream: Upstream, tokens: TokenServer, code: int) -> None:
    """404 without a challenge; the message names the upstream and the fix; a repaired login takes effect."""
    require_login(upstream, tokens)
    manifest = upstream.publish(image(1), "v1")
    tokens.inject(Status(code))
    for target in (upstream.manifest("v1"), by_ns(upstream.manifest("v1")), upstream.blob(manifest.blobs[0])):
        reply = await client.get(target)
        assert reply.status == 404, reply
        assert upstream.name in str(reply.error["message"])
        assert "password_file" in str(reply.error["message"]) or "username" in str(reply.error["message"])
        assert "WWW-Authenticate" not in reply.headers
    tokens.heal()
    await poll_until(lambda: client.get(upstream.manifest("v1")), lambda reply: reply.status == 200)
    await assert_pulled(client, upstream, manifest)


async def test_wrong_password_is_404(client: Client, upstream: Upstream) -> None:
    """Basic with a wrong password: 404 without a challenge, and the password is not disclosed."""
    upstream.registry.gate = Basic(USER, "another")
    upstream.publish(image(1), "v1")
    reply = await client.get(upstream.manifest("v1"))
    assert reply.status == 404, reply
    assert upstream.name in str(reply.error["message"])
    assert "WWW-Authenticate" not in reply.headers
    assert PASSWORD not in str(reply)


async def test_changed_password_file_is_read_again(client: Client, upstream: Upstream, directory: Path) -> None:
    """The file is read again when upstream refuses the old password, without a restart."""
    upstream.registry.gate = Basic(USER, PASSWORD)
    await assert_pulled(client, upstream, upstream.publish(image(1, 2), "v1"))
    file = directory / "password"
    try:
        file.write_text("rotated\n")
        upstream.registry.gate = Basic(USER, "rotated")
        await assert_pulled(client, upstream, upstream.publish(image(3, 4), "v1"))
    finally:
        file.write_text(f"{PASSWORD}\n")


@pytest.mark.parametrize("fault", [Status(500), Status(503), Reset(), Hold(Valve()), Status(200, body=b"<html>")])
async def test_failing_token_service_is_an_outage(
    client: Client, upstream: Upstream, tokens: TokenServer, fault: Fault
) -> None:
    """503 or 504 soon, cached tags are stale; it recovers without a restart."""
    require_login(upstream, tokens)
    manifest = upstream.publish(image(1), "v1")
    await assert_pulled(client, upstream, manifest)
    tokens.revoke()
    tokens.inject(fault)
    stale = await client.get(upstream.manifest("v1"))
    assert (stale.status, stale.body) == (200, manifest.content), stale
    assert stale.headers["Warning"]
    unknown = await client.get(upstream.manifest("v2"))
    assert unknown.status in (503, 504), unknown
    tokens.heal()
    await poll_until(lambda: client.get(upstream.manifest("v1")), lambda reply: "Warning" not in reply.headers)


async def test_rate_limited_token_service(client: Client, upstream: Upstream, tokens: TokenServer) -> None:
    """Its 429 counts as upstream's 429: no request before Retry-After, then recovery."""
    require_login(upstream, tokens)
    manifest = upstream.publish(image(1), "v1")
    tokens.inject(Status(429, {"Retry-After": "3"}))
    for target in (upstream.manifest("v1"), upstream.blob(manifest.blobs[0])) * 3:
        reply = await client.get(by_ns(target))
        assert (reply.status, reply.error["code"]) == (503, "TOOMANYREQUESTS"), reply
        assert 1 <= int(reply.headers["Retry-After"]) <= 3
    assert len(tokens.journal) == 1
    tokens.heal()
    await poll_until(lambda: client.get(upstream.manifest("v1")), lambda reply: reply.body == manifest.content)


async def test_login_secrets_are_not_logged(
    client: Client, upstream: Upstream, tokens: TokenServer, mirror: Mirror
) -> None:
    """The log has neither password nor token, in any encoding, after successful and failed pulls."""
    require_login(upstream, tokens)
    await assert_pulled(client, upstream, upstream.publish(image(1), "v1"))
    tokens.inject(Status(401))
    tokens.revoke()
    await client.get(upstream.manifest("v2"))
    log = mirror.program.said()
    assert '"pull_served"' in log
    for secret in (PASSWORD, basic(USER, PASSWORD).removeprefix("Basic "), "secret-token-"):
        assert secret not in log


async def test_client_authorization_is_not_used_upstream(
    client: Client, upstream: Upstream, tokens: TokenServer
) -> None:
    """A client's Authorization neither replaces nor supplements the mirror's login."""
    require_login(upstream, tokens)
    manifest = upstream.publish(image(1), "v1")
    reply = await client.get(upstream.manifest("v1"), {"Authorization": "Bearer mine"})
    assert reply.body == manifest.content
    everything = [*upstream.registry.journal.entries, *tokens.journal.entries]
    assert all("mine" not in seen.headers.get("Authorization", "") for seen in everything)


@pytest.mark.parametrize("code", [401, 403])
async def test_single_refusal_is_not_remembered(
    client: Client, upstream: Upstream, tokens: TokenServer, code: int
) -> None:
    """After one wrong 401 or 403 during pulls, the same content is available a moment later."""
    require_login(upstream, tokens)
    manifest = upstream.publish(image(100, 200), "v1")
    await assert_pulled(client, upstream, manifest)
    for target in (upstream.manifest("v1"), upstream.blob(upstream.publish_blob(Blob.noise(100)))):
        upstream.registry.inject(Status(code), times=1)
        await client.get(target)
        upstream.registry.heal()
        reply = await poll_until(lambda: client.get(target), lambda reply: reply.status == 200)  # noqa: B023
        assert "Warning" not in reply.headers


async def test_recovery_after_an_outage_with_expired_tokens(
    client: Client, upstream: Upstream, tokens: TokenServer
) -> None:
    """Registry and token service were down, and all tokens are invalid: the mirror recovers without a restart."""
    require_login(upstream, tokens)
    manifest = upstream.publish(image(100, 200), "v1")
    await client.get(upstream.manifest("v1"))
    for origin in (upstream.registry, tokens):
        await origin.go_down()
    for _ in range(3):
        assert (await client.get(upstream.blob(manifest.blobs[1]))).status in (503, 504)
    tokens.revoke()
    for origin in (upstream.registry, tokens):
        await origin.come_back()
    await poll_until(lambda: client.get(upstream.blob(manifest.blobs[1])), lambda reply: reply.status == 200)
    await assert_pulled(client, upstream, manifest)
