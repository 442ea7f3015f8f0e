"""Whoever leaves, and whenever: what was opened for them is closed."""

import asyncio
import socket
import struct
from urllib.parse import urlsplit

import pytest

from tests.fake.content import Blob
from tests.http.client import Client, kept
from tests.http.resources import descriptors
from tests.http.upstreams import Upstream
from tests.real.mirror import Mirror
from tests.real.program import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLIENTS = 900
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time; close() sends RST


async def leave_at_once(mirror: Mirror, target: str, after: float) -> None:
    """Ask, and reset the connection so many seconds later."""
    with socket.create_connection((urlsplit(mirror.url).hostname, mirror.port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: mirror.test\r\n\r\n".encode())
        if after:
            await asyncio.sleep(after)


async def test_clients_that_reset_at_once_leave_no_descriptor(
    client: Client, upstream: Upstream, mirror: Mirror
) -> None:
    """Some hundreds ask for a blob that is here, and are gone before, while or after it is opened."""
    blob = upstream.publish_blob(Blob.noise(300_000))
    assert (await client.get(upstream.blob(blob))).body == blob.content
    await kept(client, upstream.blob(blob))
    before = descriptors(mirror.program.pid)
    for number in range(CLIENTS):
        await leave_at_once(mirror, upstream.blob(blob), after=number % 3 * 0.0003)

    async def none_is_left() -> bool:
        return descriptors(mirror.program.pid) <= before + 2  # a connection of another test may come in between

    await eventually(none_is_left, within=5)
    assert (await client.get(upstream.blob(blob))).body == blob.content
