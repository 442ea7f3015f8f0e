"""Backpressure: clients that do not read use little memory and do not delay others; empty blobs are fast."""

import asyncio
import contextlib
import socket
import statistics
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from tests.fake.content import Blob, image
from tests.http.client import WITHIN, Client, wait_until_cached
from tests.http.resources import MIB, peak_memory, reset_peak_memory
from tests.http.upstreams import Upstream
from tests.real.mirror import Mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASKED = 300
ROUNDS = 25


def get(target: str) -> bytes:
    """Return the bytes of a GET that keeps the connection open."""
    return f"GET {target} HTTP/1.1\r\nHost: mirror.test\r\n\r\n".encode()


@contextlib.asynccontextmanager
async def connection(mirror: Mirror) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a connection to the mirror with small buffers."""
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
    own.connect((urlsplit(mirror.url).hostname, mirror.port))
    reader, writer = await asyncio.open_connection(sock=own, limit=2**16)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def body(reader: asyncio.StreamReader) -> bytes:
    """Return the body of the next response, which must be 200."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    return await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))


async def wait_until_idle(mirror: Mirror) -> None:
    """Wait until the mirror has served no manifest for half a second."""
    answered, since = -1.0, time.monotonic()
    async with asyncio.timeout(WITHIN):
        while time.monotonic() - since < 0.5:
            metrics = await mirror.metrics()
            now = sum(value for name, value in metrics.items() if name.startswith('mirror_requests_total{kind="manif'))
            if now != answered:
                answered, since = now, time.monotonic()
            await asyncio.sleep(0.05)


async def test_unread_responses_wait_for_their_client(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """Hundreds of pipelined GETs of a large manifest take little memory while unread; read later, all arrive."""
    manifest = upstream.publish(image(10, tail=MIB), "v1")
    assert (await client.get(upstream.manifest("v1"))).body == manifest.content
    async with connection(mirror) as (reader, writer):
        reset_peak_memory(mirror.program.pid)
        before = peak_memory(mirror.program.pid)
        writer.write(get(upstream.manifest(manifest)) * ASKED)
        await writer.drain()
        await wait_until_idle(mirror)
        assert peak_memory(mirror.program.pid) - before < 16 * MIB
        for _ in range(ASKED):
            assert await body(reader) == manifest.content
        assert peak_memory(mirror.program.pid) - before < 16 * MIB


async def response_time(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str, size: int) -> float:
    """Return the duration of a response of this size on an open connection."""
    began = time.perf_counter()
    writer.write(get(target))
    assert len(await body(reader)) == size
    return time.perf_counter() - began


async def test_empty_blob_is_served_at_once(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """Alternating with a blob of one byte, many times: it takes no longer."""
    none, one = upstream.publish_blob(Blob.of(b"")), upstream.publish_blob(Blob.of(b"x"))
    for blob in (none, one):
        assert (await client.get(upstream.blob(blob))).body == blob.content
    await wait_until_cached(client, upstream.blob(none), upstream.blob(one))
    took: dict[int, list[float]] = {0: [], 1: []}
    async with connection(mirror) as streams:
        for _ in range(ROUNDS):
            for blob in (none, one):
                took[blob.size].append(await response_time(*streams, upstream.blob(blob), blob.size))
    medians = {size: statistics.median(seconds) for size, seconds in took.items()}
    assert medians[0] < 0.1, medians
    assert medians[0] < 10 * medians[1], medians


async def test_stalled_readers_cost_no_memory_and_no_time(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """Twenty readers of a large blob stall during its download; another gets all of it meanwhile."""
    blob = upstream.publish_blob(Blob.noise(128 * MIB))
    assert (await client.get("/healthz")).status == 200
    reset_peak_memory(mirror.program.pid)
    before = peak_memory(mirror.program.pid)
    async with contextlib.AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(connection(mirror)) for _ in range(20)]
        for reader, writer in slow:
            writer.write(get(upstream.blob(blob)))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            assert await reader.readexactly(1000) == blob.content[:1000]
        reply = await client.get(upstream.blob(blob))
        assert (reply.whole, reply.digest) == (True, blob.digest)
        assert peak_memory(mirror.program.pid) - before < 48 * MIB
        assert await slow[-1][0].readexactly(blob.size - 1000) == blob.content[1000:]
    assert peak_memory(mirror.program.pid) - before < 48 * MIB
    assert len(upstream.registry.of_blob(blob)) == 1
