"""What a client may take of the mirror: time, memory, connections. Small limits here, so that they are soon reached."""

import asyncio
import contextlib
import time

import pytest

from tests.fake.content import Blob, image
from tests.http.client import Client, kept
from tests.http.lines import Line
from tests.http.resources import MIB, descriptors, forget_most_resident, most_resident
from tests.http.upstreams import CALM, Upstream
from tests.real.mirror import COMMAND, Mirror, environment
from tests.real.program import eventually, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

MOST = 40
CONFIG = (
    CALM
    + f"""
[limits]
connections = {MOST}
head = "2s"
idle = "6s"
unread = "2s"
head_size = 4096
"""
)


async def closes(line: Line, *, after: float, before: float, began: float) -> None:
    """The mirror closes the connection, and not too early; how much too late is a matter of the machine."""
    await eventually(line.ended, within=before)
    assert time.monotonic() - began > after


async def test_a_head_has_its_time(mirror: Mirror) -> None:
    """Nothing at all, and one byte now and then: both are over after `head`."""
    began = time.monotonic()
    async with Line.to(mirror) as silent, Line.to(mirror) as slow, asyncio.TaskGroup() as group:
        drip = group.create_task(_drip(slow))
        await closes(silent, after=1.9, before=15, began=began)
        await closes(slow, after=1.9, before=15, began=began)
        drip.cancel()


async def _drip(line: Line) -> None:
    with contextlib.suppress(ConnectionError):
        for byte in b"GET /v2/ HTTP/1.1\r\n" + b"X: y\r\n" * 1000:
            await line.send(bytes([byte]))
            await asyncio.sleep(0.2)


async def test_the_next_head_has_its_time_too(mirror: Mirror) -> None:
    """From its first byte on."""
    async with Line.to(mirror) as line:
        await line.get("/healthz")
        await line.answer()
        await asyncio.sleep(1)
        began = time.monotonic()
        await line.send(b"GET /healthz HT")
        await closes(line, after=1.9, before=15, began=began)


async def test_idle_connections_stay_for_idle(mirror: Mirror) -> None:
    """And each request begins the time anew."""
    async with Line.to(mirror) as line:
        for _ in range(2):
            await line.get("/healthz")
            await line.answer()
            await asyncio.sleep(3.5)
        began = time.monotonic() - 3.5
        assert not await line.ended()
        await closes(line, after=5.9, before=15, began=began)


async def test_above_the_limit_the_longest_idle_goes(client: Client, mirror: Mirror) -> None:
    """Whoever comes is let in for whoever has been idle longest; who is being answered or came later stays."""
    async with contextlib.AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(Line.to(mirror)) for _ in range(MOST)]
        for line in lines:
            await line.get("/healthz")
            await line.answer()
            await asyncio.sleep(0.005)  # the mirror's clock knows milliseconds
        figures = await mirror.metrics()  # by a connection of its own, for which one of the lines goes
        assert figures["mirror_connections"] == figures["mirror_connections_limit"] == MOST
        assert (await client.get("/healthz")).status == 200
        await eventually(lines[0].ended, within=3)
        assert not await lines[-1].ended()
        assert not await lines[MOST // 2].ended()
    await mirror.program.until(lambda: bool(mirror.events("connections_full")))


async def test_above_the_limit_of_busy_ones_the_new_one_is_refused(
    client: Client, upstream: Upstream, mirror: Mirror
) -> None:
    """What runs goes on; and there is room again as soon as somebody leaves."""
    blob = upstream.publish_blob(Blob.noise(16 * MIB))
    assert (await client.get(upstream.blob(blob))).whole
    await kept(client, upstream.blob(blob))
    async with contextlib.AsyncExitStack() as stack:
        lines = []
        for _ in range(MOST):  # each busy before the next one comes, which may find an earlier client still leaving
            line = await stack.enter_async_context(Line.to(mirror))
            await line.get(upstream.blob(blob))
            assert (await line.receive(64)).startswith(b"HTTP/1.1 200 ")
            lines.append(line)
        async with Line.to(mirror) as late:
            await late.get("/healthz")
            assert await late.rest() == b""
        for line in lines:
            assert await line.receive(64)

    async def has_room() -> bool:
        async with Line.to(mirror) as line:
            await line.get("/healthz")
            return (await line.receive()).startswith(b"HTTP/1.1 200 ")

    await eventually(has_room)


async def test_a_client_that_reads_nothing_goes(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """After `unread`; so does one that left a whole answer where it was and asks for nothing more."""
    blob = upstream.publish_blob(Blob.noise(16 * MIB))
    large = upstream.publish(image(10, tail=3 * MIB), "large")
    assert (await client.get(upstream.manifest("large"))).body == large.content
    assert (await client.get(upstream.blob(blob))).whole
    await kept(client, upstream.blob(blob))
    before = descriptors(mirror.program.pid)
    async with Line.to(mirror) as of_blob, Line.to(mirror) as of_manifest:
        await of_blob.get(upstream.blob(blob))
        assert (await of_blob.receive(64)).startswith(b"HTTP/1.1 200 ")
        for _ in range(4):
            await of_manifest.get(upstream.manifest(large))
        assert (await of_manifest.receive(64)).startswith(b"HTTP/1.1 200 ")

        async def both_gone() -> bool:
            return descriptors(mirror.program.pid) <= before

        await eventually(both_gone, within=20)

    def it_left() -> bool:
        return any((one["digest"], one["outcome"]) == (blob.digest, "left") for one in mirror.events("pull_served"))

    await mirror.program.until(it_left)


async def test_a_client_that_reads_slowly_stays(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """A KiB now and then, for longer than any of the limits: it still gets the next one."""
    blob = upstream.publish_blob(Blob.noise(16 * MIB))
    assert (await client.get(upstream.blob(blob))).whole
    await kept(client, upstream.blob(blob))
    async with Line.to(mirror) as line:
        await line.get(upstream.blob(blob))
        received = b""
        for _ in range(50):
            piece = await line.receive(1024)
            assert piece, f"cut after {len(received)} bytes"
            received += piece
            await asyncio.sleep(0.2)
        assert not [
            one for one in mirror.events("pull_served") if one["outcome"] == "left" and one["digest"] == blob.digest
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
async def test_heads_that_are_none(mirror: Mirror, head: bytes) -> None:
    """400 or 431, and closed (with a reset that may outrun it); the log has a line for it, and no traceback."""
    before = len(mirror.events("request_malformed"))
    async with Line.to(mirror) as line:
        await line.send(head)
        answer = await line.rest()
    assert not answer or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 ")), answer[:100]
    await mirror.program.until(lambda: len(mirror.events("request_malformed")) > before)
    assert "Traceback" not in mirror.program.said()


async def test_headers_without_end_take_no_memory(mirror: Mirror) -> None:
    """Thirty clients send headers for as long as they may; what is kept of each is little, and they are cut off."""
    forget_most_resident(mirror.program.pid)
    before = most_resident(mirror.program.pid)
    async with asyncio.TaskGroup() as group:
        for _ in range(30):
            group.create_task(_flood(mirror))
    assert most_resident(mirror.program.pid) - before < 30 * MIB


async def _flood(mirror: Mirror) -> None:
    header = b"X-%05d: " + b"y" * 3000 + b"\r\n"
    async with Line.to(mirror) as line:
        with contextlib.suppress(ConnectionError):
            await line.send(b"GET /v2/ HTTP/1.1\r\nHost: m\r\n")
            for number in range(10_000):
                await line.send(header % number)
            raise AssertionError("30 MB of headers were taken")


async def test_a_body_is_not_read_and_takes_no_memory(mirror: Mirror) -> None:
    """The answer says that this is a mirror, also to who sends a large one."""
    before = most_resident(mirror.program.pid)
    async with Line.to(mirror) as line:
        await line.send(b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: m\r\nContent-Length: 100000000\r\n\r\n")
        answer = await line.answer()
        assert answer.startswith(b"HTTP/1.1 405 "), answer
    assert most_resident(mirror.program.pid) - before < 8 * MIB


async def test_few_descriptors(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The limit of connections follows what the system allows, with a warning; a crowd beyond it does no harm."""
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
    log = directory / "mirror.observability.log"
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
                await stack.enter_async_context(Line.to(mirror))
            async with Line.to(mirror) as line:
                await line.get("/healthz")
                assert (await line.answer()).startswith(b"HTTP/1.1 200 ")
        assert "Traceback" not in program.said()
