"""Failures of blobs that cannot be stored: error responses before the first byte, and no wrong size is remembered."""

import pytest

from tests.fake.content import Blob
from tests.fake.faults import Cut, Fault, Hold, Wrong
from tests.http.client import Client
from tests.http.upstreams import IMPATIENT, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = IMPATIENT + '[cache]\nmax_size = "200KB"\n'
SIZE = 400_000


@pytest.mark.parametrize(
    ("fault", "status"),
    [(Wrong(), 502), (Wrong(at=SIZE // 2), 502), (Cut(1), 503), (Cut(SIZE // 2), 503), (Hold(at=SIZE // 2), 504)],
)
async def test_failure_within_the_first_mib_is_an_error_response(
    client: Client, upstream: Upstream, fault: Fault, status: int
) -> None:
    """A wrong byte, a disconnect or silence: the client gets a status and a message, and no byte."""
    blob = upstream.publish_blob(Blob.noise(SIZE))
    upstream.registry.inject(fault, method="GET")
    reply = await client.get(upstream.blob(blob))
    assert (reply.status, reply.whole) == (status, True), reply
    assert reply.error["message"]
    upstream.registry.heal()
    reply = await client.get(upstream.blob(blob))
    assert (reply.status, reply.whole, reply.body) == (200, True, blob.content), reply
