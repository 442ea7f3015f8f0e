"""A blob's size is fixed by its first response, whatever upstream declares when the download is resumed."""

import asyncio

import pytest

from tests.fake.answers import Valve
from tests.fake.content import Blob
from tests.fake.faults import Cut, Hold, RangeUnsized, Resized, Wrong
from tests.http.client import Client
from tests.http.upstreams import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20


def get_and_close(target: str) -> bytes:
    """Return the bytes of a GET after which the mirror closes the connection."""
    return f"GET {target} HTTP/1.1\r\nHost: mirror.test\r\nConnection: close\r\n\r\n".encode()


@pytest.mark.parametrize("size", [300_000, 2 * MIB, 12 * MIB])
async def test_resumption_with_unknown_complete_length(client: Client, upstream: Upstream, size: int) -> None:
    """`Content-Range: bytes N-M/*`: the body is complete or truncated, and never contains another response."""
    blob, valve = upstream.publish_blob(Blob.noise(size)), Valve()
    upstream.registry.inject(Cut(size // 2), ranged=False)
    upstream.registry.inject(RangeUnsized(), ranged=True)
    upstream.registry.inject(Hold(valve, at=size // 2 + size // 4), ranged=True)
    asking = asyncio.create_task(client.raw(get_and_close(upstream.blob(blob))))
    await valve.reached()
    valve.open()
    head, _, body = (await asking).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert f"Content-Length: {size}\r\n".encode() in head + b"\r\n"
    assert blob.content.startswith(body), f"other bytes after {size // 2}: {body.count(b'HTTP/1.1')} heads in the body"
    reply = await client.get(upstream.blob(blob))
    assert (reply.status, reply.body) == (200, blob.content), reply


@pytest.mark.parametrize("by", [-2 * MIB, 2 * MIB])
async def test_changed_size_truncates_the_response(client: Client, upstream: Upstream, by: int) -> None:
    """A wrong size, then a disconnect, then the right size with a wrong byte: the body is never complete."""
    blob = upstream.publish_blob(Blob.noise(12 * MIB))
    upstream.registry.inject(Resized(by), ranged=False)
    upstream.registry.inject(Cut(5 * MIB), ranged=False)
    upstream.registry.inject(Wrong(at=5 * MIB + 100), ranged=True)
    upstream.registry.inject(Hold(at=11 * MIB), ranged=True)  # forever: nothing is verified before the client is done
    reply = await client.get(upstream.blob(blob))
    assert reply.length == blob.size + by
    assert not reply.whole, f"{len(reply.body)} bytes that are not the blob, as if they were"
    upstream.registry.heal()
    reply = await client.get(upstream.blob(blob))
    assert (reply.status, reply.body) == (200, blob.content), reply
