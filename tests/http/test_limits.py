"""Limits on the time, memory and connections that a client may use; small values, so that they are reached soon."""

import asyncio
import contextlib
import time

import pytest

from tests.fake.content import Blob, image
from tests.http.client import Client, wait_until_cached
from tests.http.raw_connection import RawConnection
from tests.http.resources import MIB, descriptors, peak_memory, reset_peak_memory
from tests.http.upstreams import CALM, Upstream
from tests.real.mirror import COMMAND, Mirror, environment
from tests.real.program import eventually, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT = 40
CONFIG = (
    CALM
    + f"""
[limits]
connections = {LIMIT}
head = "2s"
idle = "6s"
unread = "2s"
head_size = 4096
"""
)


async def assert_closes(connection: RawConnection, *, after: float, before: float, began: float) -> None:
    """Check that the mirror closes the connection, not too early, and not much too late."""
    await eventually(connection.is_closed, within=before)
    assert time.monotonic() - began > after


async def test_head_timeout_closes_slow_requests(mirror: Mirror) -> None:
    """Connections that send nothing, or single bytes, are closed after `limits.head`."""
    began = time.monotonic()
    async with RawConnection.to(mirror) as silent, RawConnection.to(mirror) as slow, asyncio.TaskGroup() as group:
        drip = group.create_task(_send_slowly(slow))
        await assert_closes(silent, after=1.9, before=15, began=began)
        await assert_closes(slow, after=1.9, before=15, began=began)
        drip.cancel()


async def _send_slowly(connection: RawConnection) -> None:
    with contextlib.suppress(ConnectionError):
        for byte in b"GET /v2/ HTTP/1.1\r\n" + b"X: y\r\n" * 1000:
            await connection.send(bytes([byte]))
            await asyncio.sleep(0.2)


async def test_head_timeout_applies_to_the_next_request(mirror: Mirror) -> None:
    """The timeout counts from the request's first byte."""
    async with RawConnection.to(mirror) as connection:
        await connection.get("/healthz")
        await connection.answer()
        await asyncio.sleep(1)
        began = time.monotonic()
        await connection.send(b"GET /healthz HT")
        await assert_closes(connection, after=1.9, before=15, began=began)


async def test_idle_timeout_restarts_with_each_request(mirror: Mirror) -> None:
    """Idle connections are closed `limits.idle` after their last request."""
    async with RawConnection.to(mirror) as connection:
        for _ in range(2):
            await connection.get("/healthz")
            await connection.answer()
            await asyncio.sleep(3.5)
        began = time.monotonic() - 3.5
        assert not await connection.is_closed()
        await assert_closes(connection, after=5.9, before=15, began=began)


async def test_connection_limit_closes_the_longest_idle(client: Client, mirror: Mirror) -> None:
    """A new connection replaces the longest idle one; busy and more recently used ones stay open."""
    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(RawConnection.to(mirror)) for _ in range(LIMIT)]
        for connection in connections:
            await connection.get("/healthz")
            await connection.answer()
            await asyncio.sleep(0.005)  # the mirror's clock has a resolution of milliseconds
        figures = await mirror.metrics()  # over a connection of its own, which replaces another one
        assert figures["mirror_connections"] == figures["mirror_connections_limit"] == LIMIT
        assert (await client.get("/healthz")).status == 200
        await eventually(connections[0].is_closed, within=3)
        assert not await connections[-1].is_closed()
        assert not await connections[LIMIT // 2].is_closed()
    await mirror.program.until(lambda: bool(mirror.events("connections_full")))


async def test_connection_limit_refuses_new_ones_if_all_are_busy(
    client: Client, upstream: Upstream, mirror: Mirror
) -> None:
    """Responses in flight continue; new connections are accepted as soon as one has ended."""
    blob = upstream.publish_blob(Blob.noise(16 * MIB))
    assert (await client.get(upstream.blob(blob))).whole
    await wait_until_cached(client, upstream.blob(blob))
    async with contextlib.AsyncExitStack() as stack:
        connections = []
        for _ in range(LIMIT):  # one by one, since an earlier client may still be disconnecting
            connection = await stack.enter_async_context(RawConnection.to(mirror))
            await connection.get(upstream.blob(blob))
            assert (await connection.receive(64)).startswith(b"HTTP/1.1 200 ")
            connections.append(connection)
        async with RawConnection.to(mirror) as late:
            await late.get("/healthz")
            assert await late.rest() == b""
        for connection in connections:
            assert await connection.receive(64)

    async def has_space() -> bool:
        async with RawConnection.to(mirror) as connection:
            await connection.get("/healthz")
            return (await connection.receive()).startswith(b"HTTP/1.1 200 ")

    await eventually(has_space)


async def test_client_that_reads_nothing_is_disconnected(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """It is disconnected after `limits.unread`; so is a client that leaves a complete response unread."""
    blob = upstream.publish_blob(Blob.noise(16 * MIB))
    large = upstream.publish(image(10, tail=3 * MIB), "large")
    assert (await client.get(upstream.manifest("large"))).body == large.content
    assert (await client.get(upstream.blob(blob))).whole
    await wait_until_cached(client, upstream.blob(blob))
    before = descriptors(mirror.program.pid)
    async with RawConnection.to(mirror) as of_blob, RawConnection.to(mirror) as of_manifest:
        await of_blob.get(upstream.blob(blob))
        assert (await of_blob.receive(64)).startswith(b"HTTP/1.1 200 ")
        for _ in range(4):
            await of_manifest.get(upstream.manifest(large))
        assert (await of_manifest.receive(64)).startswith(b"HTTP/1.1 200 ")

        async def both_gone() -> bool:
            return descriptors(mirror.program.pid) <= before

        await eventually(both_gone, within=20)

    def it_left() -> bool:
        return any(
            (one["digest"], one["outcome"]) == (blob.digest, "client_disconnected")
            for one in mirror.events("pull_served")
        )

    await mirror.program.until(it_left)


async def test_client_that_reads_slowly_is_not_disconnected(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """A client that reads a KiB now and then may take longer than any limit."""
    blob = upstream.publish_blob(Blob.noise(16 * MIB))
    assert (await client.get(upstream.blob(blob))).whole
    await wait_until_cached(client, upstream.blob(blob))
    async with RawConnection.to(mirror) as connection:
        await connection.get(upstream.blob(blob))
        received = b""
        for _ in range(50):
            piece = await connection.receive(1024)
            assert piece, f"cut after {len(received)} bytes"
            received += piece
            await asyncio.sleep(0.2)
        assert not [
            one
            for one in mirror.events("pull_served")
            if one["outcome"] == "client_disconnected" and one["digest"] == blob.digest
        ]
        begin = received.partition(b"\r\n\r\n")[2]
        assert blob.content.startswith(begin)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v2/" + b"x" * 5000 + b" HTTP/1.1\r\nHost: m\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: m\r\nX: " + b"x" * 5000 + b"\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: m\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: m\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost : m\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
    ],
    ids=["long target", "long header", "many headers", "two lengths", "space in a name", "junk"],
)
async def test_malformed_heads_are_refused(mirror: Mirror, head: bytes) -> None:
    """400 or 431, then closed (a reset may overtake the response); one log event, and no traceback."""
    before = len(mirror.events("request_malformed"))
    async with RawConnection.to(mirror) as connection:
        await connection.send(head)
        answer = await connection.rest()
    assert not answer or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 ")), answer[:100]
    await mirror.program.until(lambda: len(mirror.events("request_malformed")) > before)
    assert "Traceback" not in mirror.program.said()


async def test_endless_headers_take_no_memory(mirror: Mirror) -> None:
    """Thirty clients send endless headers; little of each is kept, and they are disconnected."""
    reset_peak_memory(mirror.program.pid)
    before = peak_memory(mirror.program.pid)
    async with asyncio.TaskGroup() as group:
        for _ in range(30):
            group.create_task(_flood(mirror))
    assert peak_memory(mirror.program.pid) - before < 30 * MIB


async def _flood(mirror: Mirror) -> None:
    header = b"X-%05d: " + b"y" * 3000 + b"\r\n"
    async with RawConnection.to(mirror) as connection:
        with contextlib.suppress(ConnectionError):
            await connection.send(b"GET /v2/ HTTP/1.1\r\nHost: m\r\n")
            for number in range(10_000):
                await connection.send(header % number)
            raise AssertionError("30 MB of headers were taken")


async def test_request_body_is_not_read(mirror: Mirror) -> None:
    """A large request body is refused without reading it into memory."""
    before = peak_memory(mirror.program.pid)
    async with RawConnection.to(mirror) as connection:
        await connection.send(b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: m\r\nContent-Length: 100000000\r\n\r\n")
        answer = await connection.answer()
        assert answer.startswith(b"HTTP/1.1 405 "), answer
    assert peak_memory(mirror.program.pid) - before < 8 * MIB


async def test_low_descriptor_limit_lowers_the_connection_limit(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The connection limit follows the system's descriptor limit, with a warning; more connections do no harm."""
    directory = tmp_path_factory.mktemp("few")
    argv = [
        *COMMAND,
        "--listen",
        "127.0.0.1:0",
        "--cache",
        str(directory / "cache"),
        "--log-format",
        "json",
        "--offline",
    ]
    limited = ["/bin/sh", "-c", 'ulimit -n 64; exec "$@"', "sh", *argv]
    log = directory / "mirror.log"
    log.write_text("")
    async with running(limited, log=log, env=environment()) as program:
        mirror = Mirror(program, directory / "cache")
        await mirror.serving()
        (warning,) = mirror.events("connections_limited")
        possible = warning["possible"]
        assert isinstance(possible, int)
        assert 8 <= possible < 64
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(200):
                await stack.enter_async_context(RawConnection.to(mirror))
            async with RawConnection.to(mirror) as connection:
                await connection.get("/healthz")
                assert (await connection.answer()).startswith(b"HTTP/1.1 200 ")
        assert "Traceback" not in program.said()
