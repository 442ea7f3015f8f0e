"""Where an upstream decides itself who may pull what: each client has the rights that it has there, and no others."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import pytest
import pytest_asyncio

from mirror.oci.challenge import Bearer, parse_challenges
from tests.fake.content import Manifest, image
from tests.fake.faults import Status
from tests.fake.journal import Journal, Seen
from tests.fake.members import BasicMembers, Members, MembersTokens
from tests.fake.registry import Registry
from tests.fake.tokens import basic
from tests.http.client import Client, Reply, settled
from tests.http.upstreams import IMPATIENT, Upstream, section
from tests.real.mirror import Mirror, mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = IMPATIENT + '[tags]\nfresh_for = "1h"\nmissing_for = "0s"\n[clients]\nverdict_for = "1s"\n'
UPSTREAM = 'client_auth = "passthrough"\n'
ALICE, MALLORY = basic("alice", "alice's word"), basic("mallory", "mallory's word")
WRONG = basic("alice", "another word")


@pytest_asyncio.fixture(loop_scope="module", params=["basic", "bearer"])
async def members(request: pytest.FixtureRequest, registry: Registry) -> AsyncIterator[Members]:
    """Alice may pull team/*, Mallory her own, everybody public/*; in both ways that registries have to ask."""
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
    """An image in team/app, which is not for everybody."""
    return upstream.publish(image(), "v1")


def public_of(upstream: Upstream) -> Upstream:
    """The same upstream's repository that is for everybody."""
    return Upstream(upstream.name, upstream.registry, "public/app")


async def pull(client: Client, upstream: Upstream, manifest: Manifest, authorization: str | None) -> list[Reply]:
    """The answers for an image by tag and by digest, and for its blobs, by GET and by HEAD."""
    headers = {} if authorization is None else {"Authorization": authorization}
    targets = [upstream.manifest("v1"), upstream.manifest(manifest), *map(upstream.blob, manifest.blobs)]
    return [await client.ask(method, target, headers) for target in targets for method in ("GET", "HEAD")]


async def token_of(client: Client, upstream: Upstream, authorization: str | None, **query: str) -> str:
    """A token of the mirror's, for this login."""
    headers = {} if authorization is None else {"Authorization": authorization}
    reply = await client.get(f"/token?{urlencode({'service': upstream.name, **query})}", headers)
    assert reply.status == 200, reply
    return f"Bearer {json.loads(reply.body)['token']}"


def all_served(replies: list[Reply]) -> bool:
    return {reply.status for reply in replies} == {200}


def all_refused(replies: list[Reply], status: int) -> bool:
    """With that status, no byte of content, and no difference between what is stored and what is not."""
    assert all(b"layer" not in reply.body for reply in replies)
    return {reply.status for reply in replies} == {status}


async def test_what_one_client_pulled_is_not_served_to_another(
    client: Client, upstream: Upstream, private: Manifest
) -> None:
    """Nobody gets it, nor who has no right to it, nor a wrong password; by no reference, although all of it is here."""
    assert all_served(await pull(client, upstream, private, ALICE))
    await kept_for(client, upstream, private)
    assert all_refused(await pull(client, upstream, private, None), 401)
    assert all_refused(await pull(client, upstream, private, MALLORY), 403)
    assert all_refused(await pull(client, upstream, private, WRONG), 403)
    assert all_served(await pull(client, upstream, private, ALICE))


async def kept_for(client: Client, upstream: Upstream, manifest: Manifest) -> None:
    """Wait until Alice has hits only."""
    for blob in manifest.blobs:
        await settled(
            lambda: client.head(upstream.blob(blob), {"Authorization": ALICE}),  # noqa: B023
            lambda reply: reply.cache_status == "mirror; hit",
        )


async def test_nor_under_a_repository_that_is_for_everybody(
    client: Client, upstream: Upstream, private: Manifest
) -> None:
    """A digest is not a way around: the public repository does not hold it."""
    assert all_served(await pull(client, upstream, private, ALICE))
    public = public_of(upstream)
    public.publish(image(), "v1")
    for target in (public.manifest(private), *map(public.blob, private.blobs)):
        assert (await client.get(target)).status == 404
        assert (await client.get(target, {"Authorization": MALLORY})).status == 404


async def test_what_is_for_everybody_needs_no_login(client: Client, upstream: Upstream, members: Members) -> None:
    """With no Authorization, with podman's empty one, and with nobody's token."""
    public = public_of(upstream)
    manifest = public.publish(image(), "v1")
    for authorization in (None, "Basic Og==", await token_of(client, upstream, None)):
        assert all_served(await pull(client, public, manifest, authorization))


async def test_a_hit_asks_upstream_for_no_content(client: Client, upstream: Upstream, private: Manifest) -> None:
    """Its word on the caller is all that is wanted, and that for once."""
    assert all_served(await pull(client, upstream, private, ALICE))
    await kept_for(client, upstream, private)
    journal = upstream.registry.journal
    gets = len(content_asked_for(journal))
    assert all_served(await pull(client, upstream, private, ALICE))
    assert len(content_asked_for(journal)) == gets


def content_asked_for(journal: Journal) -> list[Seen]:
    return [seen for kind in ("manifests", "blobs") for seen in journal.of("GET", f"*/{kind}/*") if seen.status == 200]


async def test_a_right_that_is_taken_away_ends(
    client: Client, upstream: Upstream, members: Members, private: Manifest
) -> None:
    """Within the time that upstream's word holds, although all of it is here and the tag is fresh."""
    assert all_served(await pull(client, upstream, private, ALICE))
    members.rights["alice"] = ()
    asking = partial(client.head, upstream.manifest("v1"), {"Authorization": ALICE})
    assert (await settled(asking, lambda reply: reply.status != 200)).status == 403
    assert all_refused(await pull(client, upstream, private, ALICE), 403)


async def test_without_upstreams_word_nothing_is_served(
    client: Client, upstream: Upstream, members: Members, private: Manifest
) -> None:
    """Upstream is down: what it said holds for its time; after that not even who was let in gets what is stored."""
    assert all_served(await pull(client, upstream, private, ALICE))
    listing = f"/v2/{upstream.name}/{upstream.repository}/tags/list"
    assert (await client.get(listing, {"Authorization": ALICE})).status == 200
    await kept_for(client, upstream, private)
    await upstream.registry.go_down()
    asking = partial(client.head, upstream.manifest(private), {"Authorization": ALICE})
    assert (await settled(asking, lambda reply: reply.status != 200)).status == 503
    assert all_refused(await pull(client, upstream, private, None), 503)
    assert (await client.get(listing)).status == 503
    await upstream.registry.come_back()
    await settled(asking, lambda reply: reply.status == 200)


async def test_an_upstream_that_falters_refuses_nobody_for_good(
    client: Client, upstream: Upstream, private: Manifest
) -> None:
    """One stray refusal is no sticky one: the next request asks again."""
    upstream.registry.inject(Status(403), "*/manifests/*", times=2)
    assert (await client.get(upstream.manifest("v1"), {"Authorization": ALICE})).status == 403
    assert all_served(await pull(client, upstream, private, ALICE))


async def test_lists_are_upstreams_for_each_client(client: Client, upstream: Upstream, private: Manifest) -> None:
    """The tags of a private repository, and what refers to its images, too."""
    listing = f"/v2/{upstream.name}/{upstream.repository}/tags/list"
    referrers = f"/v2/{upstream.name}/{upstream.repository}/referrers/{private.digest}"
    for target in (listing, referrers):
        assert (await client.get(target, {"Authorization": ALICE})).status == 200
        assert (await client.get(target, {"Authorization": MALLORY})).status == 403
        refused = await client.get(target)
        assert refused.status == 401
        assert "WWW-Authenticate" in refused.headers


async def test_lists_of_before_stand_in_for_nobody(client: Client, upstream: Upstream, private: Manifest) -> None:
    """Upstream can't be asked what this client may see: what another saw, or this one did, is no answer."""
    listing = f"/v2/{upstream.name}/{upstream.repository}/tags/list"
    assert (await client.get(listing, {"Authorization": ALICE})).status == 200
    await upstream.registry.go_down()
    for headers in ({"Authorization": ALICE}, {"Authorization": MALLORY}, {}):
        assert (await client.get(listing, headers)).status in (503, 504)


# Logins


async def test_a_login_works_as_docker_and_crane_do_it(client: Client, upstream: Upstream, private: Manifest) -> None:
    """Challenged at /v2/, to the realm with name and password, and on with the token that it gives."""
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


async def test_who_is_refused_a_pull_is_told_where_to_log_in(
    client: Client, upstream: Upstream, private: Manifest
) -> None:
    """containerd asks no /v2/: the challenge comes with the answer, for that upstream and by the client's own name."""
    for method in ("GET", "HEAD"):
        refused = await client.ask(method, upstream.manifest("v1"))
        [challenge] = parse_challenges(refused.headers.getall("WWW-Authenticate"))
        scope = f"repository:{upstream.name}/{upstream.repository}:pull"
        assert challenge == Bearer(f"{client.base}/token", upstream.name, scope)


async def test_a_wrong_password_is_no_login(client: Client, upstream: Upstream, members: Members) -> None:
    """What `docker login` shows its user; it can be told from an upstream that can't be asked."""
    refused = await client.get(f"/token?service={upstream.name}", {"Authorization": WRONG})
    assert refused.status == 401
    assert upstream.name in str(refused.error["message"])
    await upstream.registry.go_down()
    unknown = await client.get(f"/token?service={upstream.name}", {"Authorization": basic("alice", "not asked yet")})
    assert unknown.status in {503, 504}


async def test_guessing_passwords_ends(tmp_path: Path, upstream: Upstream, private: Manifest) -> None:
    """Upstream would lock the mirror out for it. Who is known pulls on, from the same address too."""
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


async def test_tokens_for_nobody_push_out_nobodys_token(client: Client, upstream: Upstream, private: Manifest) -> None:
    """Everybody may ask for one of those, as often as he likes: it is the same for all, and opens nothing private."""
    token = await token_of(client, upstream, ALICE)
    anonymous = {await token_of(client, upstream, None) for _ in range(20)}
    assert len(anonymous) == 1
    assert all_refused(await pull(client, upstream, private, anonymous.pop()), 401)
    assert all_served(await pull(client, upstream, private, token))


@pytest.mark.parametrize("authorization", ["Bearer made-up", "Bearer members-token-1"])
async def test_a_token_of_elsewhere_is_none(
    client: Client, upstream: Upstream, private: Manifest, authorization: str
) -> None:
    """Not even upstream's own: only what this mirror gave stands for somebody here."""
    assert all_served(await pull(client, upstream, private, ALICE))
    for target in ("/v2/", upstream.manifest("v1"), upstream.blob(private.blobs[0])):
        refused = await client.get(target, {"Authorization": authorization})
        assert refused.status == 401
        assert "WWW-Authenticate" in refused.headers


async def test_a_login_is_shown_to_the_upstream_that_it_is_for_and_to_nobody_else(
    client: Client, mirror: Mirror, upstream: Upstream, upstreams: list[Upstream], hub: Registry, members: Members
) -> None:
    """Not to another upstream, whichever way it is addressed, nor to the log."""
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


async def test_many_clients_at_once_download_once(client: Client, upstream: Upstream, private: Manifest) -> None:
    """Rights are asked for one by one, bytes come once: collapsing goes on over all that may."""
    blob = private.blobs[-1]
    logins = [ALICE, await token_of(client, upstream, ALICE), ALICE, await token_of(client, upstream, ALICE)]
    asking = [client.get(upstream.blob(blob), {"Authorization": one}) for one in logins for _ in range(5)]
    refused = [client.get(upstream.blob(blob), {"Authorization": MALLORY}) for _ in range(5)]
    replies = await asyncio.gather(*asking, *refused)
    assert [reply.body for reply in replies[:20]] == [blob.content] * 20
    assert {reply.status for reply in replies[20:]} == {403}
    assert len([seen for seen in upstream.registry.of_blob(blob) if seen.status == 200]) == 1
