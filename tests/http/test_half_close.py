"""Half-closed connections are served to the end; disconnected clients are detected."""

import asyncio

import pytest

from tests.fake.answers import Valve
from tests.fake.content import Blob, image
from tests.fake.faults import Hold
from tests.http.client import Client, wait_until_cached
from tests.http.raw_connection import RawConnection
from tests.http.resources import MIB, descriptors
from tests.http.upstreams import Upstream
from tests.real.mirror import Mirror
from tests.real.program import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_response_is_complete_after_a_half_close(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """A manifest and a blob, cold and cached; then the mirror closes its side."""
    manifest = upstream.publish(image(1000, 6 * MIB), "v1")
    for target, content in (
        (upstream.manifest("v1"), manifest.content),
        (upstream.blob(manifest.blobs[-1]), manifest.blobs[-1].content),
    ):
        for _ in range(2):
            async with RawConnection.to(mirror, window=2**20) as connection:
                await connection.get(target)
                connection.close_sending()
                head, _, body = (await connection.rest()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            assert body == content
            await wait_until_cached(client, target)


async def test_pipelined_requests_are_answered_after_a_half_close(upstream: Upstream, mirror: Mirror) -> None:
    """Several requests followed by a half-close, as scripts with a pipe send them: as many responses."""
    manifest = upstream.publish(image(1000), "v1")
    async with RawConnection.to(mirror, window=2**20) as connection:
        for _ in range(5):
            await connection.get(upstream.manifest("v1"))
        connection.close_sending()
        assert (await connection.rest()).count(manifest.content) == 5


async def test_half_close_within_a_request_ends_the_connection(mirror: Mirror) -> None:
    """An incomplete request can not be completed any more: closed at once."""
    async with RawConnection.to(mirror) as connection:
        await connection.send(b"GET /v2/ HTTP/1.1\r\nHost: mirr")
        connection.close_sending()
        assert await connection.rest() == b""


async def test_http_1_0_with_a_half_close(mirror: Mirror) -> None:
    """The oldest scripts send it."""
    async with RawConnection.to(mirror) as connection:
        await connection.send(b"GET /healthz HTTP/1.0\r\n\r\n")
        connection.close_sending()
        answer = await connection.rest()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b'{"status":"alive"}')


async def test_client_disconnect_is_detected(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """Disconnected readers of a download are removed when the next bytes come; the download continues."""
    blob = upstream.publish_blob(Blob.noise(8 * MIB))
    valve = Valve()
    upstream.registry.inject(Hold(valve, at=2 * MIB), f"*{blob.digest}", times=1)
    before = descriptors(mirror.program.pid)
    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(_read_a_little(mirror, upstream.blob(blob)))
    valve.open()
    await wait_until_cached(client, upstream.blob(blob))

    async def all_gone() -> bool:
        left = [
            one
            for one in mirror.events("pull_served")
            if one["digest"] == blob.digest and one["outcome"] == "client_disconnected"
        ]
        return len(left) == 20 and descriptors(mirror.program.pid) <= before + 2

    await eventually(all_gone)


async def _read_a_little(mirror: Mirror, target: str) -> None:
    """Send a GET, read the available bytes, and close both sides."""
    async with RawConnection.to(mirror, window=2**20) as connection:
        await connection.get(target)
        while await _has_more(connection):
            pass


async def _has_more(connection: RawConnection) -> bool:
    try:
        async with asyncio.timeout(0.5):
            return bool(await connection.receive())
    except TimeoutError:
        return False
