"""The negative cache: a 404 is remembered for missing_for, and only for the repository that got it."""

import asyncio
from urllib.parse import urlsplit

import pytest

from tests.fake.content import Blob
from tests.fake.faults import Status
from tests.http.client import Client, poll_until
from tests.http.resources import MIB, resident
from tests.http.test_repository_authorization import join_download, other_repository
from tests.http.upstreams import CALM, Upstream
from tests.real.mirror import Mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = CALM + '[tags]\nmissing_for = "60s"\n'
BATCH = 100  # pipelined requests


async def test_404_of_another_repository_is_not_cached_for_ours(client: Client, upstream: Upstream) -> None:
    """A shared download ends in 404 for the repository that began it; ours fails at first, which is no 404."""
    theirs, blob = other_repository(upstream), upstream.publish_blob(Blob.noise(200_000))
    upstream.registry.inject(Status(503), f"/v2/{upstream.repository}/blobs/*", method="GET", times=2)
    await (await join_download(client, blob, upstream, theirs, Status(404)))
    reply = await poll_until(lambda: client.get(upstream.blob(blob)), lambda reply: reply.status != 503)
    assert (reply.status, reply.body) == (200, blob.content), reply


async def request_pipelined(mirror: Mirror, target: str, times: int) -> None:
    """Send so many requests on one connection, each of which must get 404."""
    reader, writer = await asyncio.open_connection(urlsplit(mirror.url).hostname, mirror.port)
    try:
        for _ in range(times // BATCH):
            writer.write(f"GET {target} HTTP/1.1\r\nHost: mirror.test\r\n\r\n".encode() * BATCH)
            for _ in range(BATCH):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 404 "), head
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length))
    finally:
        writer.close()


async def test_repeated_404_costs_one_request_and_no_memory(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """Ten thousand requests for an unknown digest: one upstream request, and no growth of memory."""
    digest = Blob.noise(10).digest
    await request_pipelined(mirror, upstream.blob(digest), 1000)  # allocate everything that is allocated once
    before = resident(mirror.program.pid)
    await request_pipelined(mirror, upstream.blob(digest), 10_000)
    assert resident(mirror.program.pid) - before < 4 * MIB
    assert len(upstream.registry.journal) == 1
