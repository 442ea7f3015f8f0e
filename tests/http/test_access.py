"""Access rules: they apply to manifests, blobs, tags and referrers, for every spelling of a request."""

from collections.abc import Iterator

import pytest

from tests.fake.content import Blob, artifact, image
from tests.fake.registry import Registry
from tests.http.client import Client, Reply
from tests.http.upstreams import CALM, Upstream
from tests.http.users import basic, htpasswd
from tests.real.mirror import Mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

PASSWORDS = {"admin": "a", "ci-1": "c", "guest": "g"}
FILES = {"users": htpasswd(PASSWORDS)}
CONFIG = f"""
[clients]
users_file = "{{directory}}/users"
[[access]]
users = ["admin"]
allow = true
[[access]]
repositories = ["*/team/hidden", "*/library/hidden*"]
allow = false
[[access]]
users = ["ci-*"]
repositories = ["*/team/*", "index.docker.io/library/*"]
allow = true
{CALM}
"""
ADMIN, CI, GUEST = (basic(user, password) for user, password in PASSWORDS.items())


def targets(repository: str, tag: str, digest: str, blob: str) -> Iterator[str]:
    """Yield a target of each kind in a repository."""
    for reference in (tag, digest, digest.replace(":", "%3A")):
        yield f"/v2/{repository}/manifests/{reference}"
    yield f"/v2/{repository}/blobs/{blob}"
    yield f"/v2/{repository}/blobs/{blob.replace(':', '%3a')}"
    yield f"/v2/{repository}/tags/list"
    yield f"/v2/{repository}/tags/list?n=1"
    yield f"/v2/{repository}/referrers/{digest}"


def spellings(upstream: str, name: str, target: str) -> Iterator[str]:
    """Yield the spellings of *target*, which begins with /v2/ and the name alone."""
    rest = target.removeprefix(f"/v2/{name}")
    path, mark, query = rest.partition("?")
    more = f"&{query}" if mark else ""
    hosts = {upstream, upstream.upper(), upstream.capitalize()}
    if upstream == "docker.io":
        hosts |= {"index.docker.io", "registry-1.docker.io", "INDEX.docker.IO"}
    names = {name, name.removeprefix("library/")} if upstream == "docker.io" else {name}
    for one in sorted(names):
        for host in sorted(hosts):
            yield f"/v2/{host}/{one}{rest}"
            yield f"/{host}/v2/{one}{rest}"
            yield f"/v2/{one}{path}?ns={host}{more}"
            yield f"/v2/{host}/{one}{path}?ns=docker.io{more}"
            yield f"/v2/{host}/{one}{path}?ns={upstream}{more}"
        if upstream == "docker.io":
            yield f"/v2/{one}{rest}"


def is_denied(reply: Reply, user: str, repository: str) -> bool:
    """Return whether this is the refusal of an authenticated user: it names user and rule, and has no challenge."""
    if reply.status != 403 or "WWW-Authenticate" in reply.headers or "Cache-Status" in reply.headers:
        return False
    if not reply.body:
        return True
    message = str(reply.error["message"])
    return reply.error["code"] == "DENIED" and all(word in message for word in (user, repository, "[[access]]"))


@pytest.mark.parametrize("cached", [True, False])
async def test_no_spelling_bypasses_an_access_rule(client: Client, upstream: Upstream, cached: bool) -> None:
    """Path, prefix, ns, letter case, escapes: all denied, cached or not, without an upstream request."""
    manifest = image(100)
    upstream.registry.publish("team/hidden", manifest, "v1")
    blob = manifest.blobs[0].digest
    plain = list(targets("team/hidden", "v1", manifest.digest, blob))
    if cached:
        for target in plain:
            reply = await client.get(target.replace("/v2/", f"/v2/{upstream.name}/"), ADMIN)
            assert reply.status == 200, reply
    asked = len(upstream.registry.journal)
    for target in plain:
        for spelling in spellings(upstream.name, "team/hidden", target):
            for method in ("GET", "HEAD"):
                reply = await client.ask(method, spelling, CI)
                assert is_denied(reply, "ci-1", f"{upstream.name}/team/hidden"), (spelling, str(reply))
    assert len(upstream.registry.journal) == asked


async def test_no_spelling_of_docker_hub_bypasses_an_access_rule(client: Client, hub: Registry) -> None:
    """docker.io has three host names and may be omitted; its one-component images have two names."""
    manifest, shown = image(100), image(100)
    hub.publish("library/hidden", manifest, "v1")
    hub.publish("library/shown", shown, "v1")
    asked = len(hub.journal)
    for target in targets("library/hidden", "v1", manifest.digest, manifest.blobs[0].digest):
        for spelling in spellings("docker.io", "library/hidden", target):
            reply = await client.get(spelling, CI)
            assert is_denied(reply, "ci-1", "docker.io/library/hidden"), (spelling, str(reply))
    assert len(hub.journal) == asked
    for target in targets("library/shown", "v1", shown.digest, shown.blobs[0].digest):
        for spelling in spellings("docker.io", "library/shown", target):
            assert (await client.get(spelling, CI)).status == 200, spelling


async def test_denial_does_not_reveal_existence(client: Client, upstream: Upstream) -> None:
    """The denial is the same for existing and missing content, so that names cannot be probed."""
    manifest = image(100)
    upstream.registry.publish("team/hidden", manifest, "v1")
    base = f"/v2/{upstream.name}/team/hidden"
    assert (await client.get(f"{base}/manifests/v1", ADMIN)).status == 200
    there = await client.get(f"{base}/manifests/v1", CI)
    for target in ("manifests/v2", f"manifests/{manifest.digest}", f"blobs/{Blob.of(b'no').digest}", "tags/list"):
        reply = await client.get(f"{base}/{target}", CI)
        assert (reply.status, reply.body) == (there.status, there.body)


async def test_user_without_a_matching_rule_is_denied(client: Client, upstream: Upstream) -> None:
    """The user gets 200 at /v2/, where clients test a login, and 403 at every repository."""
    upstream.publish(image(100), "v1")
    assert (await client.get("/v2/", GUEST)).status == 200
    assert (await client.get("/metrics", GUEST)).status == 200
    reply = await client.get(upstream.manifest("v1"), GUEST)
    assert is_denied(reply, "guest", f"{upstream.name}/team/app")
    assert "no rule" in str(reply.error["message"])


async def test_unauthenticated_client_learns_nothing_of_access_rules(client: Client, upstream: Upstream) -> None:
    """Clients without a valid login get 401 everywhere, whether the rules allow or deny."""
    for headers in ({}, basic("admin", "wrong"), basic("nobody", "x")):
        for name in ("team/hidden", "team/app", "other"):
            reply = await client.get(f"/v2/{upstream.name}/{name}/manifests/v1", headers)
            assert reply.status == 401
            assert "WWW-Authenticate" in reply.headers


async def test_digest_does_not_cross_an_access_rule(client: Client, upstream: Upstream) -> None:
    """Of content in two repositories, a client gets what it may pull: a digest gives no access to the other one."""
    shared = Blob.noise(1000)
    secret = image(100)
    upstream.registry.publish("team/hidden", secret, "v1")
    upstream.registry.add("team/hidden", shared)
    upstream.registry.add("team/app", shared)
    hidden, open_ = (f"/v2/{upstream.name}/team/{name}" for name in ("hidden", "app"))
    for digest in (shared.digest, secret.blobs[0].digest):
        assert (await client.get(f"{hidden}/blobs/{digest}", ADMIN)).status == 200
    assert (await client.get(f"{hidden}/manifests/v1", ADMIN)).status == 200

    assert (await client.get(f"{hidden}/blobs/{shared.digest}", CI)).status == 403
    assert (await client.get(f"{open_}/blobs/{shared.digest}", CI)).body == shared.content
    assert (await client.get(f"{open_}/blobs/{secret.blobs[0].digest}", CI)).status == 404
    assert (await client.get(f"{open_}/manifests/{secret.digest}", CI)).status == 404
    assert (await client.get(f"{hidden}/manifests/{secret.digest}", CI)).status == 403
    assert (
        await client.ask("POST", f"{open_}/blobs/uploads/?mount={secret.digest}&from=team/hidden", CI)
    ).status == 405


async def test_referrers_are_authorized_by_repository(client: Client, upstream: Upstream) -> None:
    """The referrers of a digest are requested under a repository name, and denied with it."""
    manifest = image(10)
    for name in ("team/app", "team/hidden"):
        upstream.registry.publish(name, manifest)
        upstream.registry.publish(name, artifact("application/vnd.test", Blob.noise(5), manifest))
    statuses = [
        (await client.get(f"/v2/{upstream.name}/{name}/referrers/{manifest.digest}", CI)).status
        for name in ("team/app", "team/hidden")
    ]
    assert statuses == [200, 403]


async def test_invalid_names_are_refused_regardless_of_access_rules(client: Client) -> None:
    """Authenticated users get 400 and 404 with their messages, whatever the rules are."""
    assert (await client.get("/v2/UPPER/manifests/v1", CI)).status == 400
    assert (await client.get("/v2/a/../team/hidden/manifests/v1", CI)).status in (400, 404)
    assert (await client.get("/v2/team%2Fhidden/manifests/v1", CI)).status in (400, 404)
    assert (await client.get("/v2/team/hidden/manifests/v1?ns=nowhere.test", CI)).status == 404
    assert (await client.get("/v2/_catalog", CI)).status == 404


async def test_denial_is_logged(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """The event names the user and the reason, so that the operator sees which rule is missing."""
    target = f"/v2/{upstream.name}/team/app/manifests/v1"
    assert (await client.get(target, GUEST)).status == 403
    await mirror.program.until(lambda: target in mirror.program.said())
    (event,) = (event for event in mirror.events("pull_failed") if event["target"] == target)
    assert (event["status"], event["code"], event["user"]) == (403, "DENIED", "guest")
    assert f"{upstream.name}/team/app" in str(event["reason"])
