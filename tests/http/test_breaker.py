"""The circuit breaker: only the failing server counts as down, and only while it fails; other requests continue."""

import asyncio
from dataclasses import dataclass

import pytest

from tests.fake.cdn import Cdn
from tests.fake.content import Blob, image
from tests.fake.faults import Fault, Hold, Redirect, Reset, Slow, Status
from tests.fake.tokens import Bearer, TokenServer
from tests.http.client import Client, Reply, poll_until
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
    """A gate for one repository; the others are open."""

    bearer: Bearer
    repository: str

    def admits(self, authorization: str | None, scope: str) -> bool:
        return self.repository not in scope or self.bearer.admits(authorization, scope)

    def challenges(self, authorization: str | None, scope: str) -> list[str]:
        return self.bearer.challenges(authorization, scope)


async def assert_upstream_is_up(client: Client, upstream: Upstream, tag: str) -> None:
    """Check that a cold manifest is fetched, and that /readyz reports the upstream as up."""
    manifest = upstream.publish(image(10), tag)
    reply = await client.get(upstream.manifest(tag))
    assert (reply.status, reply.body) == (200, manifest.content), reply
    upstreams = (await client.get("/readyz")).body
    assert f'"{upstream.name}": "up"'.encode() in upstreams


async def assert_redirected_blobs_fail(client: Client, upstream: Upstream, location: str) -> None:
    """Request blobs that are redirected to this address, and fail."""
    upstream.registry.inject(Redirect(location), "*/blobs/*")
    targets = [upstream.blob(Blob.noise(10)) for _ in range(3)]
    for reply in await asyncio.gather(*map(client.get, targets)):
        assert reply.status in (503, 504), reply


@each_failure
async def test_failing_storage_is_not_an_outage_of_the_registry(
    client: Client, upstream: Upstream, cdn: Cdn, failure: str
) -> None:
    """Blobs redirected to a host that is down fail; all other requests succeed."""
    fault = ELSEWHERE[failure]
    if fault is None:
        await cdn.go_down()
    else:
        cdn.inject(fault)
    await assert_redirected_blobs_fail(client, upstream, cdn.presign(b"").replace("127.0.0.1", "localhost"))
    await assert_upstream_is_up(client, upstream, "v1")


async def test_failing_storage_on_another_port_is_not_the_registry(
    client: Client, upstream: Upstream, cdn: Cdn
) -> None:
    """A 503 from another port of the same host is that of another service."""
    cdn.inject(Status(503))
    await assert_redirected_blobs_fail(client, upstream, cdn.presign(b""))
    await assert_upstream_is_up(client, upstream, "v1")


@each_failure
async def test_failing_token_service_is_not_an_outage_of_the_registry(
    client: Client, upstream: Upstream, tokens: TokenServer, failure: str
) -> None:
    """Repositories without authentication work while one repository's token service is down."""
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
    await assert_upstream_is_up(client, upstream, "v1")


async def test_token_response_in_pieces_is_read_completely(
    client: Client, upstream: Upstream, tokens: TokenServer
) -> None:
    """The response of the token service arrives a few bytes at a time: one request, and the login works."""
    upstream.registry.gate = Bearer(tokens=tokens)
    tokens.inject(Slow(500))
    manifest = upstream.publish(image(10), "v1")
    reply = await client.get(upstream.manifest("v1"))
    assert (reply.status, reply.body) == (200, manifest.content), reply
    assert len(tokens.asked) == 1


async def test_recovery_needs_no_other_request(client: Client, upstream: Upstream) -> None:
    """After two failures, a cached manifest with a missing layer is served again as soon as upstream is well."""
    manifest = upstream.publish(image(100), "v1")
    assert (await client.get(upstream.manifest(manifest))).status == 200
    upstream.registry.inject(Status(503), times=2)
    assert (await client.get(upstream.blob(manifest.blobs[1]))).status == 503

    async def ask() -> Reply:
        return await client.get(upstream.manifest(manifest))

    reply = await poll_until(ask, lambda reply: reply.status != 503)
    assert (reply.status, reply.body) == (200, manifest.content), reply


async def test_moved_tag_with_a_cached_manifest_costs_one_head(client: Client, upstream: Upstream) -> None:
    """The tag now points at the manifest of another tag, which is cached and known to be in the repository."""
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
