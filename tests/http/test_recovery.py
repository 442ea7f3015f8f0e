"""After a failure: what failed counts as down, alone and for as long as it fails; what is well is asked as ever."""

import asyncio
from dataclasses import dataclass

import pytest

from tests.fake.cdn import Cdn
from tests.fake.content import Blob, image
from tests.fake.faults import Fault, Hold, Redirect, Reset, Slow, Status
from tests.fake.tokens import Bearer, TokenServer
from tests.http.client import Client, Reply, settled
from tests.http.upstreams import IMPATIENT, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = IMPATIENT + '[tags]\nfresh_for = "0s"\nmissing_for = "0s"\n'

ELSEWHERE: dict[str, Fault | None] = {
    "refused": None,
    "reset": Reset(),
    "500": Status(500),
    "503": Status(503),
    "silent": Hold(),
}

each_failure = pytest.mark.parametrize("failure", ELSEWHERE)


@dataclass(frozen=True, slots=True)
class LockedRepository:
    """A gate before one repository; the others are open."""

    bearer: Bearer
    repository: str

    def admits(self, authorization: str | None, scope: str) -> bool:
        return self.repository not in scope or self.bearer.admits(authorization, scope)

    def challenges(self, authorization: str | None, scope: str) -> list[str]:
        return self.bearer.challenges(authorization, scope)


async def answered_at_once(client: Client, upstream: Upstream, tag: str) -> None:
    """A cold manifest is asked for upstream, and comes."""
    manifest = upstream.publish(image(10), tag)
    reply = await client.get(upstream.manifest(tag))
    assert (reply.status, reply.body) == (200, manifest.content), reply
    upstreams = (await client.get("/readyz")).body
    assert f'"{upstream.name}": "up"'.encode() in upstreams


async def blobs_fail_elsewhere(client: Client, upstream: Upstream, location: str) -> None:
    """Some blobs that are sent to this address, and fail."""
    upstream.registry.inject(Redirect(location), "*/blobs/*")
    targets = [upstream.blob(Blob.noise(10)) for _ in range(3)]
    for reply in await asyncio.gather(*map(client.get, targets)):
        assert reply.status in (503, 504), reply


@each_failure
async def test_a_storage_that_fails_is_no_outage_of_the_registry(
    client: Client, upstream: Upstream, cdn: Cdn, failure: str
) -> None:
    """Blobs are redirected to a host that is down: they fail, and everything else is asked for as ever."""
    fault = ELSEWHERE[failure]
    if fault is None:
        await cdn.go_down()
    else:
        cdn.inject(fault)
    await blobs_fail_elsewhere(client, upstream, cdn.presign(b"").replace("127.0.0.1", "localhost"))
    await answered_at_once(client, upstream, "v1")


async def test_a_storage_at_another_port_of_the_same_host_is_no_registry(
    client: Client, upstream: Upstream, cdn: Cdn
) -> None:
    """What answers there with 503 is another service, as where both run on one machine."""
    cdn.inject(Status(503))
    await blobs_fail_elsewhere(client, upstream, cdn.presign(b""))
    await answered_at_once(client, upstream, "v1")


@each_failure
async def test_a_token_service_that_fails_is_no_outage_of_the_registry(
    client: Client, upstream: Upstream, tokens: TokenServer, failure: str
) -> None:
    """One repository's token service is down: the repositories that need none are asked for as ever."""
    locked = Upstream(upstream.name, upstream.registry, "team/locked")
    upstream.registry.gate = LockedRepository(Bearer(tokens=tokens), locked.repository)
    locked.publish(image(10), "a", "b", "c")
    fault = ELSEWHERE[failure]
    if fault is None:
        await tokens.go_down()
    else:
        tokens.inject(fault)
    for reply in await asyncio.gather(*(client.get(locked.manifest(tag)) for tag in "abc")):
        assert reply.status in (503, 504), reply
    await answered_at_once(client, upstream, "v1")


async def test_a_token_that_comes_in_pieces_is_read_whole(
    client: Client, upstream: Upstream, tokens: TokenServer
) -> None:
    """A few bytes of the token service's answer, and a moment later a few more: one question, and the login works."""
    upstream.registry.gate = Bearer(tokens=tokens)
    tokens.inject(Slow(500))
    manifest = upstream.publish(image(10), "v1")
    reply = await client.get(upstream.manifest("v1"))
    assert (reply.status, reply.body) == (200, manifest.content), reply
    assert len(tokens.asked) == 1


async def test_a_blip_is_over_without_another_question(client: Client, upstream: Upstream) -> None:
    """Two failures, and upstream is well: a cached manifest with a missing layer is served again, asked for alone."""
    manifest = upstream.publish(image(100), "v1")
    assert (await client.get(upstream.manifest(manifest))).status == 200
    upstream.registry.inject(Status(503), times=2)
    assert (await client.get(upstream.blob(manifest.blobs[1]))).status == 503

    async def ask() -> Reply:
        return await client.get(upstream.manifest(manifest))

    reply = await settled(ask, lambda reply: reply.status != 503)
    assert (reply.status, reply.body) == (200, manifest.content), reply


async def test_a_moved_tag_whose_manifest_is_here_costs_one_head(client: Client, upstream: Upstream) -> None:
    """The tag names now what another tag named before: that is stored, and held by the repository."""
    before, after = upstream.publish(image(10), "v1"), upstream.publish(image(20), "v2")
    for tag, manifest in (("v1", before), ("v2", after)):
        assert (await client.get(upstream.manifest(tag))).body == manifest.content
    upstream.publish(after, "v1")
    asked = len(upstream.registry.journal)
    reply = await client.get(upstream.manifest("v1"))
    assert (reply.status, reply.body) == (200, after.content), reply
    assert [(seen.method, seen.path.rpartition("/")[2]) for seen in upstream.registry.journal.entries[asked:]] == [
        ("HEAD", "v1")
    ]
