"""The mirror's own logins upstream: Basic and Bearer in every spelling, few token requests, no secret astray."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fake.answers import Valve
from tests.fake.content import Blob, Manifest, image
from tests.fake.faults import Fault, Hold, Reset, Status
from tests.fake.tokens import Basic, Bearer, TokenServer, basic
from tests.http.client import Client, settled
from tests.http.upstreams import IMPATIENT, Upstream, by_ns
from tests.real.mirror import Mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

USER, PASSWORD = "robot$pull", "pa:ss wörd+/="
CONFIG = IMPATIENT + '[tags]\nfresh_for = "0s"\nmissing_for = "1s"\n'
UPSTREAM = f'username = "{USER}"\npassword_file = "{{directory}}/password"\n'
FILES = {"password": f"{PASSWORD}\n"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """How a registry words its challenge, and how its token server words the token."""

    service: str | None = "registry.test"
    quoted: bool = True
    scoped: bool = True
    beside: tuple[str, ...] = ()
    same_line: str = ""
    fields: tuple[str, ...] = ("token",)
    expires_in: int | None = 300


MANNERS = {
    "plain": Manners(),
    "without service": Manners(service=None),
    "unquoted": Manners(quoted=False),
    "unquoted, without service": Manners(quoted=False, service=None),
    "without scope": Manners(scoped=False),
    "access_token": Manners(fields=("access_token",)),
    "both tokens": Manners(fields=("token", "access_token")),
    "no expires_in": Manners(expires_in=None),
    "expires at once": Manners(expires_in=0),
    "beside another line": Manners(beside=("Negotiate",)),
    "beside another on its line": Manners(same_line='Negotiate, Digest realm="a,b", nonce="x==", '),
}


def logged_in(upstream: Upstream, tokens: TokenServer, manners: Manners = MANNERS["plain"]) -> None:
    """Put a gate before the registry that only the configured login opens."""
    tokens.logins = {USER: PASSWORD}
    tokens.fields, tokens.expires_in = manners.fields, manners.expires_in
    upstream.registry.gate = Bearer(
        tokens=tokens,
        service=manners.service,
        quoted=manners.quoted,
        scoped=manners.scoped,
        beside=manners.beside,
        same_line=manners.same_line,
    )


async def pulled(client: Client, upstream: Upstream, manifest: Manifest) -> None:
    """The whole image comes, as from an open registry."""
    reply = await client.get(upstream.manifest("v1"))
    assert (reply.status, reply.body) == (200, manifest.content), reply
    assert "Warning" not in reply.headers
    for blob in manifest.blobs:
        reply = await client.get(upstream.blob(blob))
        assert (reply.status, reply.body) == (200, blob.content), reply


@pytest.mark.parametrize("spelling", MANNERS)
async def test_bearer_in_every_spelling(client: Client, upstream: Upstream, tokens: TokenServer, spelling: str) -> None:
    """Challenges and tokens come with and without service, scope, quotes, expiry, and in company."""
    logged_in(upstream, tokens, MANNERS[spelling])
    manifest = upstream.publish(image(100, 200), "v1")
    await pulled(client, upstream, manifest)
    for seen in tokens.asked:
        assert seen.headers["Authorization"] == basic(USER, PASSWORD)
        assert ("service=registry.test" in seen.query) == (MANNERS[spelling].service is not None)
        assert "scope=repository" in seen.query


async def test_basic(client: Client, upstream: Upstream) -> None:
    """The configured login is used where Basic is asked for."""
    upstream.registry.gate = Basic(USER, PASSWORD)
    await pulled(client, upstream, upstream.publish(image(100), "v1"))


async def test_basic_is_offered_once_it_is_known(client: Client, upstream: Upstream) -> None:
    """Not every request runs into the challenge first."""
    upstream.registry.gate = Basic(USER, PASSWORD)
    await pulled(client, upstream, upstream.publish(image(*range(1, 11)), "v1"))
    refused = [seen for seen in upstream.registry.journal.entries if seen.status == 401]
    assert len(refused) <= 2


async def test_one_token_for_a_whole_pull(client: Client, upstream: Upstream, tokens: TokenServer) -> None:
    """One request for a token per scope, however many blobs, one after another or at once."""
    logged_in(upstream, tokens)
    manifest = upstream.publish(image(*range(1, 41)), "v1")
    await client.get(upstream.manifest("v1"))
    replies = await asyncio.gather(*(client.get(upstream.blob(blob)) for blob in manifest.blobs))
    assert [reply.body for reply in replies] == [blob.content for blob in manifest.blobs]
    assert len(tokens.asked) == 1


async def test_forty_at_once_ask_for_one_token(client: Client, upstream: Upstream, tokens: TokenServer) -> None:
    """Also when the very first requests come together, and the token server takes its time."""
    logged_in(upstream, tokens)
    valve = Valve()
    tokens.inject(Hold(valve))
    manifest = upstream.publish(image(*range(1, 41)), "v1")
    asking = [asyncio.create_task(client.get(upstream.blob(blob))) for blob in manifest.blobs]
    await valve.reached()
    await asyncio.wait(asking, timeout=0.3)
    valve.open()
    assert [reply.status for reply in await asyncio.gather(*asking)] == [200] * 41
    assert len(tokens.asked) == 1


async def test_each_repository_has_its_own_token(client: Client, upstream: Upstream, tokens: TokenServer) -> None:
    """The scope is the repository's; a token for one opens no other."""
    logged_in(upstream, tokens)
    blob = upstream.publish_blob(Blob.noise(100))
    other = Blob.noise(100)
    upstream.registry.add("other/app", other)
    assert (await client.get(upstream.blob(blob))).body == blob.content
    assert (await client.get(f"/v2/{upstream.name}/other/app/blobs/{other.digest}")).body == other.content
    assert len(tokens.asked) == 2


async def test_a_token_that_ends_in_the_middle_of_a_pull(
    client: Client, upstream: Upstream, tokens: TokenServer
) -> None:
    """Refreshed once, by however many requests it is missed; no client notices."""
    logged_in(upstream, tokens)
    manifest = upstream.publish(image(*range(1, 21)), "v1")
    await client.get(upstream.manifest("v1"))
    tokens.revoke()
    replies = await asyncio.gather(*(client.get(upstream.blob(blob)) for blob in manifest.blobs))
    assert [reply.body for reply in replies] == [blob.content for blob in manifest.blobs]
    assert len(tokens.asked) == 2


async def test_a_worthless_token_changes_the_challenge(client: Client, upstream: Upstream, tokens: TokenServer) -> None:
    """nvcr.io sends an expired token to a realm that is of no use: the token is dropped, and the question put anew."""
    logged_in(upstream, tokens)
    async with TokenServer.running() as dead_end:
        dead_end.logins = {"nobody": "knows"}
        upstream.registry.gate = Bearer(tokens=tokens, realm_after_expiry=dead_end.realm)
        manifest = upstream.publish(image(1, 2), "v1")
        await client.get(upstream.manifest("v1"))
        tokens.revoke()
        await pulled(client, upstream, manifest)


@pytest.mark.parametrize("code", [401, 403])
async def test_a_login_that_is_refused(client: Client, upstream: Upstream, tokens: TokenServer, code: int) -> None:
    """404 without a challenge; the message names the upstream and the cure; when the login is good again it works."""
    logged_in(upstream, tokens)
    manifest = upstream.publish(image(1), "v1")
    tokens.inject(Status(code))
    for target in (upstream.manifest("v1"), by_ns(upstream.manifest("v1")), upstream.blob(manifest.blobs[0])):
        reply = await client.get(target)
        assert reply.status == 404, reply
        assert upstream.name in str(reply.error["message"])
        assert "password_file" in str(reply.error["message"]) or "username" in str(reply.error["message"])
        assert "WWW-Authenticate" not in reply.headers
    tokens.heal()
    await settled(lambda: client.get(upstream.manifest("v1")), lambda reply: reply.status == 200)
    await pulled(client, upstream, manifest)


async def test_a_wrong_password(client: Client, upstream: Upstream) -> None:
    """Basic with another password: 404, no challenge, and the password in nobody's answer."""
    upstream.registry.gate = Basic(USER, "another")
    upstream.publish(image(1), "v1")
    reply = await client.get(upstream.manifest("v1"))
    assert reply.status == 404, reply
    assert upstream.name in str(reply.error["message"])
    assert "WWW-Authenticate" not in reply.headers
    assert PASSWORD not in str(reply)


async def test_a_password_that_is_changed_in_its_file(client: Client, upstream: Upstream, directory: Path) -> None:
    """It is read anew when upstream refuses the old one: no client notices, and nobody restarts anything."""
    upstream.registry.gate = Basic(USER, PASSWORD)
    await pulled(client, upstream, upstream.publish(image(1, 2), "v1"))
    file = directory / "password"
    try:
        file.write_text("rotated\n")
        upstream.registry.gate = Basic(USER, "rotated")
        await pulled(client, upstream, upstream.publish(image(3, 4), "v1"))
    finally:
        file.write_text(f"{PASSWORD}\n")


@pytest.mark.parametrize("fault", [Status(500), Status(503), Reset(), Hold(Valve()), Status(200, body=b"<html>")])
async def test_a_token_server_that_fails(client: Client, upstream: Upstream, tokens: TokenServer, fault: Fault) -> None:
    """An outage like any other: 503 or 504 soon, what is here is served stale, and it works again by itself."""
    logged_in(upstream, tokens)
    manifest = upstream.publish(image(1), "v1")
    await pulled(client, upstream, manifest)
    tokens.revoke()
    tokens.inject(fault)
    stale = await client.get(upstream.manifest("v1"))
    assert (stale.status, stale.body) == (200, manifest.content), stale
    assert stale.headers["Warning"]
    unknown = await client.get(upstream.manifest("v2"))
    assert unknown.status in (503, 504), unknown
    tokens.heal()
    await settled(lambda: client.get(upstream.manifest("v1")), lambda reply: "Warning" not in reply.headers)


async def test_a_token_server_with_a_rate_limit(client: Client, upstream: Upstream, tokens: TokenServer) -> None:
    """Its 429 is upstream's 429: nobody asks it again before its time, and then all is well."""
    logged_in(upstream, tokens)
    manifest = upstream.publish(image(1), "v1")
    tokens.inject(Status(429, {"Retry-After": "3"}))
    for target in (upstream.manifest("v1"), upstream.blob(manifest.blobs[0])) * 3:
        reply = await client.get(by_ns(target))
        assert (reply.status, reply.error["code"]) == (503, "TOOMANYREQUESTS"), reply
        assert 1 <= int(reply.headers["Retry-After"]) <= 3
    assert len(tokens.journal) == 1
    tokens.heal()
    await settled(lambda: client.get(upstream.manifest("v1")), lambda reply: reply.body == manifest.content)


async def test_secrets_are_not_logged(client: Client, upstream: Upstream, tokens: TokenServer, mirror: Mirror) -> None:
    """Neither password nor token, in whatever form they travelled, after good and bad pulls."""
    logged_in(upstream, tokens)
    await pulled(client, upstream, upstream.publish(image(1), "v1"))
    tokens.inject(Status(401))
    tokens.revoke()
    await client.get(upstream.manifest("v2"))
    log = mirror.program.said()
    assert '"pull_served"' in log
    for secret in (PASSWORD, basic(USER, PASSWORD).removeprefix("Basic "), "secret-token-"):
        assert secret not in log


async def test_the_clients_login_is_not_ours(client: Client, upstream: Upstream, tokens: TokenServer) -> None:
    """A client's Authorization opens nothing upstream and replaces nothing."""
    logged_in(upstream, tokens)
    manifest = upstream.publish(image(1), "v1")
    reply = await client.get(upstream.manifest("v1"), {"Authorization": "Bearer mine"})
    assert reply.body == manifest.content
    everything = [*upstream.registry.journal.entries, *tokens.journal.entries]
    assert all("mine" not in seen.headers.get("Authorization", "") for seen in everything)


@pytest.mark.parametrize("code", [401, 403])
async def test_a_stray_refusal_ends_with_itself(
    client: Client, upstream: Upstream, tokens: TokenServer, code: int
) -> None:
    """Once, to a login that is right, in the middle of pulls: whatever was asked for then is had a moment later."""
    logged_in(upstream, tokens)
    manifest = upstream.publish(image(100, 200), "v1")
    await pulled(client, upstream, manifest)
    for target in (upstream.manifest("v1"), upstream.blob(upstream.publish_blob(Blob.noise(100)))):
        upstream.registry.inject(Status(code), times=1)
        await client.get(target)
        upstream.registry.heal()
        reply = await settled(lambda: client.get(target), lambda reply: reply.status == 200)  # noqa: B023
        assert "Warning" not in reply.headers


async def test_an_outage_of_everything_ends_with_itself(
    client: Client, upstream: Upstream, tokens: TokenServer
) -> None:
    """Registry and token service were away, and every token that was held is worthless: nobody restarts anything."""
    logged_in(upstream, tokens)
    manifest = upstream.publish(image(100, 200), "v1")
    await client.get(upstream.manifest("v1"))
    for origin in (upstream.registry, tokens):
        await origin.go_down()
    for _ in range(3):
        assert (await client.get(upstream.blob(manifest.blobs[1]))).status in (503, 504)
    tokens.revoke()
    for origin in (upstream.registry, tokens):
        await origin.come_back()
    await settled(lambda: client.get(upstream.blob(manifest.blobs[1])), lambda reply: reply.status == 200)
    await pulled(client, upstream, manifest)
