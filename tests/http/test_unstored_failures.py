"""Failures of blobs that cannot be stored: error responses before the first byte, and no wrong size is remembered."""

import pytest

from tests.fake.content import Blob, image
from tests.fake.faults import Cut, Fault, Hold, Resized, Wrong
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


async def manifest_layer(client: Client, upstream: Upstream) -> Blob:
    """Return the layer of an image whose manifest the mirror has, so that it knows the layer's size."""
    manifest = upstream.publish(image(SIZE), "v1")
    assert (await client.get(upstream.manifest("v1"))).status == 200
    return next(blob for blob in manifest.blobs if blob.size == SIZE)


@pytest.mark.parametrize("by", [-10, 10])
async def test_wrong_announced_size_is_tried_again(client: Client, upstream: Upstream, by: int) -> None:
    """The manifest states the size: one response with another one costs the client nothing but time."""
    blob = await manifest_layer(client, upstream)
    upstream.registry.inject(Resized(by), method="GET", times=1)
    reply = await client.get(upstream.blob(blob))
    assert (reply.status, reply.whole, reply.body) == (200, True, blob.content), reply


@pytest.mark.parametrize("by", [-10, 10])
async def test_part_within_a_wrong_announced_size_is_served(client: Client, upstream: Upstream, by: int) -> None:
    """A range in the middle has the same bytes; the whole is an error response that names the upstream."""
    blob = await manifest_layer(client, upstream)
    upstream.registry.inject(Resized(by), method="GET")
    reply = await client.get(upstream.blob(blob), {"Range": "bytes=100000-299999"})
    assert (reply.status, reply.body) == (206, blob.content[100_000:300_000]), reply
    reply = await client.get(upstream.blob(blob))
    assert (reply.status, reply.error["detail"]) == (502, {"error": "SizeMismatch", "upstream": upstream.name}), reply


@pytest.mark.parametrize("by", [-10, 10])
async def test_wrong_announced_size_is_not_remembered(client: Client, upstream: Upstream, by: int) -> None:
    """No manifest states the size: after one response with a wrong one, the next pulls have the right one."""
    blob = upstream.publish_blob(Blob.noise(SIZE))
    upstream.registry.inject(Resized(by), method="GET", times=1)
    assert (await client.get(upstream.blob(blob))).status == 502
    headed = await client.head(upstream.blob(blob))
    assert (headed.status, headed.length) == (200, SIZE), headed
    ranged = await client.get(upstream.blob(blob), {"Range": "bytes=-10"})
    assert (ranged.status, ranged.body) == (206, blob.content[-10:]), ranged
    reply = await client.get(upstream.blob(blob))
    assert (reply.status, reply.whole, reply.body) == (200, True, blob.content), reply
