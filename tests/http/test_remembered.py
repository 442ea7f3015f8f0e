"""What is remembered of upstream's answers: a 404 for a while, and only for whom it was given to."""

import asyncio
from urllib.parse import urlsplit

import pytest

from tests.fake.content import Blob
from tests.fake.faults import Status
from tests.http.client import Client, settled
from tests.http.resources import MIB, resident
from tests.http.test_rights import beside, joined
from tests.http.upstreams import CALM, Upstream
from tests.real.mirror import Mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = CALM + '[tags]\nmissing_for = "60s"\n'
BATCH = 100  # requests that are written at once


async def test_anothers_404_is_not_remembered_for_us(client: Client, upstream: Upstream) -> None:
    """A download that began for another ends in 404, and our own does not work at first: that is no 404."""
    theirs, blob = beside(upstream), upstream.publish_blob(Blob.noise(200_000))
    upstream.registry.inject(Status(503), f"/v2/{upstream.repository}/blobs/*", method="GET", times=2)
    await (await joined(client, blob, upstream, theirs, Status(404)))
    reply = await settled(lambda: client.get(upstream.blob(blob)), lambda reply: reply.status != 503)
    assert (reply.status, reply.body) == (200, blob.content), reply


async def ask_on(mirror: Mirror, target: str, times: int) -> None:
    """So many requests on one connection, each answered with 404."""
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


async def test_ten_thousand_questions_for_nothing_leave_nothing(
    client: Client, upstream: Upstream, mirror: Mirror
) -> None:
    """An unknown digest is asked for again and again: one question upstream, and no more memory for it."""
    digest = Blob.noise(10).digest
    await ask_on(mirror, upstream.blob(digest), 1000)  # whatever is made once is made now
    before = resident(mirror.program.pid)
    await ask_on(mirror, upstream.blob(digest), 10_000)
    assert resident(mirror.program.pid) - before < 4 * MIB
    assert len(upstream.registry.journal) == 1
