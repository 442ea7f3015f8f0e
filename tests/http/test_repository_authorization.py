"""Repositories share stored bytes, but not authorization: each repository's upstream says which blobs it has."""

import asyncio
from collections.abc import Callable

import pytest

from tests.fake.answers import Valve
from tests.fake.content import Blob
from tests.fake.faults import Fault, Hold, Reset, Status
from tests.fake.journal import Ending
from tests.fake.registry import Registry
from tests.http.client import Client, poll_until
from tests.http.upstreams import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = """
[tags]
missing_for = "0s"
[timeouts]
shutdown = "2s"
"""
ROUNDS = 40


def other_repository(upstream: Upstream) -> Upstream:
    """Return another repository of the same upstream."""
    return Upstream(upstream.name, upstream.registry, "team/other")


async def status_of(client: Client, target: str) -> int:
    """Return the status as soon as the headers are received."""
    async with client.open(target) as answer:
        return answer.status


async def request_concurrently(client: Client, ours: Upstream, theirs: Upstream, *, first: bool) -> tuple[int, int]:
    """Return the statuses of concurrent requests for the repository with the blob and for the one without it."""
    blob, valve = ours.publish_blob(Blob.noise(200_000)), Valve()
    ours.registry.inject(Hold(valve, at=1000), f"*/blobs/{blob.digest}", method="GET")
    one, other = (ours, theirs) if first else (theirs, ours)
    asking = {upstream: asyncio.create_task(status_of(client, upstream.blob(blob))) for upstream in (one, other)}
    refused = await asking[theirs]
    valve.open()
    served = await asking[ours]
    assert (await client.get(ours.blob(blob))).body == blob.content
    assert (await client.get(theirs.blob(blob))).status == 404
    assert (await client.head(theirs.blob(blob))).status == 404
    return served, refused


@pytest.mark.parametrize("first", [True, False])
async def test_concurrent_request_of_another_repository_is_404(client: Client, upstream: Upstream, first: bool) -> None:
    """Two repositories request one cold digest: the one that has it gets it, the other gets 404, then and later."""
    theirs = other_repository(upstream)
    theirs.publish_blob(Blob.noise(10))
    for _ in range(ROUNDS):
        assert await request_concurrently(client, upstream, theirs, first=first) == (200, 404)
    upstream.registry.heal()


async def join_download(
    client: Client, blob: Blob, ours: Upstream, theirs: Upstream, *faults: Fault
) -> asyncio.Task[int]:
    """Return the status for a blob whose download was started for another repository, where it fails."""
    valve = Valve()
    path = f"/v2/{theirs.repository}/blobs/{blob.digest}"
    theirs.registry.inject(Hold(valve), path, method="GET")
    for fault in faults:
        theirs.registry.inject(fault, path, method="GET")
    asking = asyncio.create_task(client.get(theirs.blob(blob)))
    await valve.reached()
    following = asyncio.create_task(status_of(client, ours.blob(blob)))
    await ours.registry.journal.until(lambda seen: any(e.ending is Ending.COMPLETE for e in seen.of("HEAD")))
    for _ in range(10):
        await client.get("/healthz")  # time for the mirror to read the response to its HEAD, and to join
    valve.open()
    assert (await asking).status in (404, 503)
    return following


ANOTHERS: dict[str, tuple[Callable[[Upstream, Registry], Upstream], tuple[Fault, ...]]] = {
    "404": (lambda upstream, _: other_repository(upstream), (Status(404),)),
    "401": (lambda upstream, _: other_repository(upstream), (Status(401),)),
    "reset": (lambda _, hub: Upstream("docker.io", hub, "team/reset"), (Reset(),)),
    "500": (lambda _, hub: Upstream("docker.io", hub, "team/down"), (Status(500),)),
}


@pytest.mark.parametrize("failure", ANOTHERS)
async def test_download_that_failed_for_another_repository_is_restarted(
    client: Client, upstream: Upstream, hub: Registry, failure: str
) -> None:
    """The other repository's upstream refuses or is down; ours is well, and delivers the blob."""
    choose, faults = ANOTHERS[failure]
    theirs = choose(upstream, hub)
    await poll_until(lambda: client.get(theirs.blob(Blob.noise(1))), lambda reply: reply.status == 404)  # it is up
    blob = upstream.publish_blob(Blob.noise(200_000))
    assert await (await join_download(client, blob, upstream, theirs, *faults)) == 200
    assert (await client.get(upstream.blob(blob))).body == blob.content
