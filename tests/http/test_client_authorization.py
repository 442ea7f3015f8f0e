"""client_auth = "passthrough": the upstream authorizes each client, which gets exactly the access it has there."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import pytest
import pytest_asyncio

from mirror.oci.challenge import Bearer, parse_challenges
from tests.fake.answers import Valve
from tests.fake.content import Blob, Manifest, image
from tests.fake.faults import Hold, Status
from tests.fake.journal import Journal, Seen
from tests.fake.members import BasicMembers, Members, MembersTokens
from tests.fake.registry import Registry
from tests.fake.tokens import basic
from tests.http.client import Client, Reply, poll_until
from tests.http.upstreams import IMPATIENT, Upstream, section
from tests.real.mirror import Mirror, mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = IMPATIENT + '[tags]\nfresh_for = "1h"\nmissing_for = "0s"\n[clients]\nverdict_for = "1s"\n'
UPSTREAM = 'client_auth = "passthrough"\n'
ALICE, MALLORY = basic("alice", "alice's word"), basic("mallory", "mallory's word")
WRONG = basic("alice", "another word")


@pytest_asyncio.fixture(loop_scope="module", params=["basic", "bearer"])
async def members(request: pytest.FixtureRequest, registry: Registry) -> AsyncIterator[Members]:
    """Users: alice may pull team/*, mallory her own, all clients public/*; with Basic and with Bearer."""
    members = Members(
        {"alice": "alice's word", "mallory": "mallory's word"},
        {"alice": ("team/*", "public/*"), "mallory": ("mallory/*", "public/*"), "": ("public/*",)},
    )
    if request.param == "basic":
        registry.gate = BasicMembers(members)
        yield members
        return
    async with MembersTokens.running() as tokens:
        registry.gate, tokens.members = tokens, members
        yield members


@pytest.fixture
def private(upstream: Upstream, members: Members) -> Manifest:
    """An image in team/app, which is private."""
    return upstream.publish(image(), "v1")


def public_of(upstream: Upstream) -> Upstream:
    """Return the public repository of the same upstream."""
    return Upstream(upstream.name, upstream.registry, "public/app")


async def pull(client: Client, upstream: Upstream, manifest: Manifest, authorization: str | None) -> list[Reply]:
    """Return the replies for an image by tag and digest, and for its blobs, by GET and HEAD."""
    headers = {} if authorization is None else {"Authorization": authorization}
    targets = [upstream.manifest("v1"), upstream.manifest(manifest), *map(upstream.blob, manifest.blobs)]
    return [await client.ask(method, target, headers) for target in targets for method in ("GET", "HEAD")]


async def token_of(client: Client, upstream: Upstream, authorization: str | None, **query: str) -> str:
    """Return a token of the mirror for this login."""
    headers = {} if authorization is None else {"Authorization": authorization}
    reply = await client.get(f"/token?{urlencode({'service': upstream.name, **query})}", headers)
    assert reply.status == 200, reply
    return f"Bearer {json.loads(reply.body)['token']}"


def all_served(replies: list[Reply]) -> bool:
    return {reply.status for reply in replies} == {200}


def all_refused(replies: list[Reply], status: int) -> bool:
    """Return whether all replies have that status and no content, cached or not."""
    assert all(b"layer" not in reply.body for reply in replies)
    return {reply.status for reply in replies} == {status}


async def test_cached_content_is_not_served_to_unauthorized_clients(
    client: Client, upstream: Upstream, private: Manifest
) -> None:
    """A client without a login, without access or with a wrong password gets nothing, though everything is cached."""
    assert all_served(await pull(client, upstream, private, ALICE))
    await wait_until_hits(client, upstream, private)
    assert all_refused(await pull(client, upstream, private, None), 401)
    assert all_refused(await pull(client, upstream, private, MALLORY), 403)
    assert all_refused(await pull(client, upstream, private, WRONG), 403)
    assert all_served(await pull(client, upstream, private, ALICE))


async def wait_until_hits(client: Client, upstream: Upstream, manifest: Manifest) -> None:
    """Wait until all blobs are hits for alice."""
    for blob in manifest.blobs:
        await poll_until(
            lambda: client.head(upstream.blob(blob), {"Authorization": ALICE}),  # noqa: B023
            lambda reply: reply.cache_status == "mirror; hit",
        )


async def test_private_digest_is_404_in_a_public_repository(
    client: Client, upstream: Upstream, private: Manifest
) -> None:
    """The public repository does not have the digest."""
    assert all_served(await pull(client, upstream, private, ALICE))
    public = public_of(upstream)
    public.publish(image(), "v1")
    for target in (public.manifest(private), *map(public.blob, private.blobs)):
        assert (await client.get(target)).status == 404
        assert (await client.get(target, {"Authorization": MALLORY})).status == 404


async def test_public_content_needs_no_login(client: Client, upstream: Upstream, members: Members) -> None:
    """A client gets it without Authorization, with podman's empty one, and with an anonymous token."""
    public = public_of(upstream)
    manifest = public.publish(image(), "v1")
    for authorization in (None, "Basic Og==", await token_of(client, upstream, None)):
        assert all_served(await pull(client, public, manifest, authorization))


async def test_hit_requests_no_content_from_upstream(client: Client, upstream: Upstream, private: Manifest) -> None:
    """Only the authorization is requested, once."""
    assert all_served(await pull(client, upstream, private, ALICE))
    await wait_until_hits(client, upstream, private)
    journal = upstream.registry.journal
    gets = len(content_asked_for(journal))
    assert all_served(await pull(client, upstream, private, ALICE))
    assert len(content_asked_for(journal)) == gets


def content_asked_for(journal: Journal) -> list[Seen]:
    return [seen for kind in ("manifests", "blobs") for seen in journal.of("GET", f"*/{kind}/*") if seen.status == 200]


async def test_revoked_access_ends(client: Client, upstream: Upstream, members: Members, private: Manifest) -> None:
    """Within verdict_for, although the image is cached and the tag is fresh."""
    assert all_served(await pull(client, upstream, private, ALICE))
    members.rights["alice"] = ()
    asking = partial(client.head, upstream.manifest("v1"), {"Authorization": ALICE})
    assert (await poll_until(asking, lambda reply: reply.status != 200)).status == 403
    assert all_refused(await pull(client, upstream, private, ALICE), 403)


async def test_nothing_is_served_without_upstreams_authorization(
    client: Client, upstream: Upstream, members: Members, private: Manifest
) -> None:
    """In an outage authorizations hold for verdict_for; after that no client gets cached content."""
    assert all_served(await pull(client, upstream, private, ALICE))
    listing = f"/v2/{upstream.name}/{upstream.repository}/tags/list"
    assert (await client.get(listing, {"Authorization": ALICE})).status == 200
    await wait_until_hits(client, upstream, private)
    await upstream.registry.go_down()
    asking = partial(client.head, upstream.manifest(private), {"Authorization": ALICE})
    assert (await poll_until(asking, lambda reply: reply.status != 200)).status == 503
    assert all_refused(await pull(client, upstream, private, None), 503)
    assert (await client.get(listing)).status == 503
    await upstream.registry.come_back()
    await poll_until(asking, lambda reply: reply.status == 200)


async def test_single_refusal_by_upstream_is_not_remembered(
    client: Client, upstream: Upstream, private: Manifest
) -> None:
    """After one wrong refusal, the next request is sent upstream again."""
    upstream.registry.inject(Status(403), "*/manifests/*", times=2)
    assert (await client.get(upstream.manifest("v1"), {"Authorization": ALICE})).status == 403
    assert all_served(await pull(client, upstream, private, ALICE))


async def test_lists_are_authorized_per_client(client: Client, upstream: Upstream, private: Manifest) -> None:
    """The tag list and the referrers of a private repository."""
    listing = f"/v2/{upstream.name}/{upstream.repository}/tags/list"
    referrers = f"/v2/{upstream.name}/{upstream.repository}/referrers/{private.digest}"
    for target in (listing, referrers):
        assert (await client.get(target, {"Authorization": ALICE})).status == 200
        assert (await client.get(target, {"Authorization": MALLORY})).status == 403
        refused = await client.get(target)
        assert refused.status == 401
        assert "WWW-Authenticate" in refused.headers


async def test_lists_are_not_served_stale_under_passthrough(
    client: Client, upstream: Upstream, private: Manifest
) -> None:
    """A list depends on the client, so no earlier list is served in an outage."""
    listing = f"/v2/{upstream.name}/{upstream.repository}/tags/list"
    assert (await client.get(listing, {"Authorization": ALICE})).status == 200
    await upstream.registry.go_down()
    for headers in ({"Authorization": ALICE}, {"Authorization": MALLORY}, {}):
        assert (await client.get(listing, headers)).status in (503, 504)


# Logins


async def test_login_of_docker_and_crane(client: Client, upstream: Upstream, private: Manifest) -> None:
    """A challenge at /v2/, the realm with user and password, then requests with the token."""
    asked = await client.get("/v2/")
    assert asked.status == 401
    assert asked.error["code"] == "UNAUTHORIZED"
    [challenge] = parse_challenges(asked.headers.getall("WWW-Authenticate"))
    assert isinstance(challenge, Bearer)
    assert challenge.realm == f"{client.base}/token"
    scope = f"repository:{upstream.name}/{upstream.repository}:pull"
    for query in ({"scope": scope, "service": "another"}, {"service": upstream.name}):
        token = await token_of(client, upstream, ALICE, **query)
        assert (await client.get("/v2/", {"Authorization": token})).status == 200
        assert all_served(await pull(client, upstream, private, token))


async def test_refused_pull_has_a_challenge(client: Client, upstream: Upstream, private: Manifest) -> None:
    """containerd sends no /v2/: the 401 has the challenge, with the upstream's name and the repository's scope."""
    for method in ("GET", "HEAD"):
        refused = await client.ask(method, upstream.manifest("v1"))
        [challenge] = parse_challenges(refused.headers.getall("WWW-Authenticate"))
        scope = f"repository:{upstream.name}/{upstream.repository}:pull"
        assert challenge == Bearer(f"{client.base}/token", upstream.name, scope)


async def test_wrong_password_gets_no_token(client: Client, upstream: Upstream, members: Members) -> None:
    """`docker login` shows the message; it differs from that of an outage."""
    refused = await client.get(f"/token?service={upstream.name}", {"Authorization": WRONG})
    assert refused.status == 401
    assert upstream.name in str(refused.error["message"])
    await upstream.registry.go_down()
    unknown = await client.get(f"/token?service={upstream.name}", {"Authorization": basic("alice", "not asked yet")})
    assert unknown.status in {503, 504}


async def test_password_guessing_is_limited(tmp_path: Path, upstream: Upstream, private: Manifest) -> None:
    """Otherwise upstream would lock out the mirror. Known clients keep pulling, from the same address too."""
    config = tmp_path / "mirror.toml"
    config.write_text(CONFIG + section(upstream.name, upstream.registry.url, UPSTREAM))
    async with mirror(tmp_path, "--config", str(config)) as running, Client.of(running.url) as own:
        assert all_served(await pull(own, upstream, private, ALICE))
        for word in range(60):
            shown = {"Authorization": basic("alice", f"guess {word}")}
            target = upstream.manifest("v1") if word % 2 else f"/token?service={upstream.name}"
            assert (await own.get(target, shown)).status in {401, 403}
        for target in (upstream.manifest("v1"), f"/token?service={upstream.name}"):
            before = len(upstream.registry.journal.entries)
            reply = await own.get(target, {"Authorization": basic("alice", "the next guess")})
            assert (reply.status, reply.error["code"]) == (503, "TOOMANYREQUESTS"), reply
            assert 0 < int(reply.headers["Retry-After"]) <= 60
            assert len(upstream.registry.journal.entries) == before


async def test_anonymous_tokens_do_not_displace_others(client: Client, upstream: Upstream, private: Manifest) -> None:
    """All clients get the same anonymous token, which grants no access to private content."""
    token = await token_of(client, upstream, ALICE)
    anonymous = {await token_of(client, upstream, None) for _ in range(20)}
    assert len(anonymous) == 1
    assert all_refused(await pull(client, upstream, private, anonymous.pop()), 401)
    assert all_served(await pull(client, upstream, private, token))


@pytest.mark.parametrize("authorization", ["Bearer made-up", "Bearer members-token-1"])
async def test_foreign_token_is_refused(
    client: Client, upstream: Upstream, private: Manifest, authorization: str
) -> None:
    """Only tokens issued by this mirror are valid, not even upstream's own."""
    assert all_served(await pull(client, upstream, private, ALICE))
    for target in ("/v2/", upstream.manifest("v1"), upstream.blob(private.blobs[0])):
        refused = await client.get(target, {"Authorization": authorization})
        assert refused.status == 401
        assert "WWW-Authenticate" in refused.headers


async def test_login_is_sent_to_its_upstream_only(
    client: Client, mirror: Mirror, upstream: Upstream, upstreams: list[Upstream], hub: Registry, members: Members
) -> None:
    """No other upstream gets it, by any spelling of its address, nor does the log."""
    login = basic("alice", members.passwords["alice"])
    token = await token_of(client, upstream, login)
    others = [one for one in upstreams if one is not upstream][:3]
    journals = [hub.journal, *(other.registry.journal for other in others)]
    before = [len(journal.entries) for journal in journals]
    for other in others:
        assert (await client.get(other.manifest("v1"), {"Authorization": token})).status != 200
    for shown in (token, login):
        await client.get("/v2/docker.io/library/private/manifests/v1", {"Authorization": shown})
    for journal, already in zip(journals, before, strict=True):
        for seen in journal.entries[already:]:
            assert seen.headers.get("Authorization", "").partition(" ")[0] != "Basic"
            assert token not in seen.headers.get("Authorization", "")
    for secret in ("alice's word", login.partition(" ")[2], token.partition(" ")[2]):
        assert secret not in mirror.program.said()


async def test_authorized_clients_share_one_download(client: Client, upstream: Upstream, private: Manifest) -> None:
    """Authorizations are requested for each client, the content is downloaded once."""
    blob = private.blobs[-1]
    logins = [ALICE, await token_of(client, upstream, ALICE), ALICE, await token_of(client, upstream, ALICE)]
    asking = [client.get(upstream.blob(blob), {"Authorization": one}) for one in logins for _ in range(5)]
    refused = [client.get(upstream.blob(blob), {"Authorization": MALLORY}) for _ in range(5)]
    replies = await asyncio.gather(*asking, *refused)
    assert [reply.body for reply in replies[:20]] == [blob.content] * 20
    assert {reply.status for reply in replies[20:]} == {403}
    assert len([seen for seen in upstream.registry.of_blob(blob) if seen.status == 200]) == 1


@pytest.mark.parametrize("status", [403, 404])
async def test_refusal_of_one_login_is_not_another_clients_answer(
    client: Client, upstream: Upstream, members: Members, private: Manifest, status: int
) -> None:
    """A download that alice's login started resumes when it is refused: bob, who reads it too, may ask again."""
    members.passwords["bob"], members.rights["bob"] = "bob's word", ("team/*",)
    alice, bob = {"Authorization": ALICE}, {"Authorization": basic("bob", "bob's word")}
    for login in (alice, bob):
        assert (await client.get(upstream.manifest("v1"), login)).status == 200
    blob, valve = upstream.publish_blob(Blob.noise(50_000)), Valve()
    upstream.registry.inject(Hold(valve, at=20_000), path=f"*/blobs/{blob.digest}", method="GET", times=1)
    upstream.registry.inject(Status(status), path=f"*/blobs/{blob.digest}", method="GET", ranged=True)
    first = asyncio.create_task(client.get(upstream.blob(blob), alice))
    await valve.reached()
    reply = await client.get(upstream.blob(blob), bob)
    await first
    assert reply.status == 503, reply
    assert b"alice" not in reply.body
    upstream.registry.heal()
    assert (await client.get(upstream.blob(blob), bob)).body == blob.content
