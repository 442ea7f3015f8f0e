"""Clients that reset their connections leak no file descriptors in the mirror."""

import asyncio
import socket
import struct
from urllib.parse import urlsplit

import pytest

from tests.fake.content import Blob
from tests.http.client import Client, wait_until_cached
from tests.http.resources import descriptors
from tests.http.upstreams import Upstream
from tests.real.mirror import Mirror
from tests.real.program import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLIENTS = 900
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, with timeout 0; close() sends RST


async def leave_at_once(mirror: Mirror, target: str, after: float) -> None:
    """Send a GET, and reset the connection so many seconds later."""
    with socket.create_connection((urlsplit(mirror.url).hostname, mirror.port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: mirror.test\r\n\r\n".encode())
        if after:
            await asyncio.sleep(after)


async def test_client_resets_leak_no_descriptors(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """Hundreds of clients request a cached blob and disconnect before, while or after its file is opened."""
    blob = upstream.publish_blob(Blob.noise(300_000))
    assert (await client.get(upstream.blob(blob))).body == blob.content
    await wait_until_cached(client, upstream.blob(blob))
    before = descriptors(mirror.program.pid)
    for number in range(CLIENTS):
        await leave_at_once(mirror, upstream.blob(blob), after=number % 3 * 0.0003)

    async def none_is_left() -> bool:
        return descriptors(mirror.program.pid) <= before + 2  # a connection of another test may be open

    await eventually(none_is_left, within=5)
    assert (await client.get(upstream.blob(blob))).body == blob.content
