"""Bytes are shared between repositories, rights are not: each repository's upstream says what that one holds."""

import asyncio
from collections.abc import Callable

import pytest

from tests.fake.answers import Valve
from tests.fake.content import Blob
from tests.fake.faults import Fault, Hold, Reset, Status
from tests.fake.journal import Ending
from tests.fake.registry import Registry
from tests.http.client import Client, settled
from tests.http.upstreams import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = """
[tags]
missing_for = "0s"
[timeouts]
shutdown = "2s"
"""
ROUNDS = 40


def beside(upstream: Upstream) -> Upstream:
    """Another repository of the same upstream."""
    return Upstream(upstream.name, upstream.registry, "team/other")


async def status_of(client: Client, target: str) -> int:
    """The status, as soon as the headers are there."""
    async with client.open(target) as answer:
        return answer.status


async def asked_at_once(client: Client, ours: Upstream, theirs: Upstream, *, first: bool) -> tuple[int, int]:
    """The statuses for the repository that has a blob and for the one that has not, both cold; ours has all bytes."""
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
async def test_asking_at_the_same_moment_gives_no_rights(client: Client, upstream: Upstream, first: bool) -> None:
    """Two repositories ask for one cold digest at once: who holds it gets it, who doesn't gets 404, then and later."""
    theirs = beside(upstream)
    theirs.publish_blob(Blob.noise(10))
    for _ in range(ROUNDS):
        assert await asked_at_once(client, upstream, theirs, first=first) == (200, 404)
    upstream.registry.heal()


async def joined(client: Client, blob: Blob, ours: Upstream, theirs: Upstream, *faults: Fault) -> asyncio.Task[int]:
    """Our status for a blob whose download began for the other repository, where it comes to nothing."""
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
        await client.get("/healthz")  # the mirror has had time to read the answer to its HEAD, and to join
    valve.open()
    assert (await asking).status in (404, 503)
    return following


ANOTHERS: dict[str, tuple[Callable[[Upstream, Registry], Upstream], tuple[Fault, ...]]] = {
    "404": (lambda upstream, _: beside(upstream), (Status(404),)),
    "401": (lambda upstream, _: beside(upstream), (Status(401),)),
    "reset": (lambda _, hub: Upstream("docker.io", hub, "team/reset"), (Reset(),)),
    "500": (lambda _, hub: Upstream("docker.io", hub, "team/down"), (Status(500),)),
}


@pytest.mark.parametrize("failure", ANOTHERS)
async def test_a_download_that_failed_for_another_is_begun_anew(
    client: Client, upstream: Upstream, hub: Registry, failure: str
) -> None:
    """The other repository's upstream says no or is down; ours is well, and gives us the blob."""
    choose, faults = ANOTHERS[failure]
    theirs = choose(upstream, hub)
    await settled(lambda: client.get(theirs.blob(Blob.noise(1))), lambda reply: reply.status == 404)  # it is not down
    blob = upstream.publish_blob(Blob.noise(200_000))
    assert await (await joined(client, blob, upstream, theirs, *faults)) == 200
    assert (await client.get(upstream.blob(blob))).body == blob.content
