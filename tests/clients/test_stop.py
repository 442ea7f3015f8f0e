"""Graceful shutdown by SIGINT (Ctrl-C) and SIGTERM during a pull."""

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.real import images
from tests.real.images import Blob
from tests.real.mirror import Mirror, mirror
from tests.real.program import eventually
from tests.real.registry import Registry

pytestmark = pytest.mark.needs("busybox", "docker-registry")

BALLAST = 48 * 2**20  # bytes; more than the socket buffers between mirror and client hold (10 MB at most)


@pytest.fixture
async def large(upstream: Registry) -> Blob:
    """A large blob of team/large."""
    image = images.runnable("large", ballast=BALLAST)
    await upstream.push(image, "team/large", "1")
    return image.blobs[-1]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as client:
        yield client


def address(mirrored: Mirror, blob: Blob) -> str:
    return f"{mirrored.url}/v2/team/large/blobs/{blob.digest}"


def interrupt(mirrored: Mirror) -> None:
    """Send SIGINT to the whole process group, as a terminal does for Ctrl-C."""
    os.killpg(mirrored.program.pid, signal.SIGINT)


async def is_closed(mirrored: Mirror) -> bool:
    """Return whether the mirror no longer accepts connections."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", mirrored.port)
    except ConnectionError:  # refused, or reset before the connection was accepted
        return True
    writer.close()
    return False


async def is_downloading(mirrored: Mirror) -> bool:
    """Return whether one download is in progress."""
    return await mirrored.total("mirror_downloads_running") == 1


async def body(session: aiohttp.ClientSession, url: str) -> bytes:
    async with session.get(url) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.read()


async def test_interrupted_mirror_completes_running_pull(
    upstream: Registry, mirrored: Mirror, large: Blob, session: aiohttp.ClientSession
) -> None:
    """After SIGINT new connections are refused; the running pull receives all bytes; the exit status is 0."""
    async with session.get(address(mirrored, large)) as answer:
        received = hashlib.sha256(await answer.content.readexactly(2**16))
        interrupt(mirrored)
        await eventually(lambda: is_closed(mirrored))

        assert mirrored.program.running
        async for chunk in answer.content.iter_any():
            received.update(chunk)

    assert f"sha256:{received.hexdigest()}" == large.digest
    assert await mirrored.program.ended() == 0


async def test_interrupted_mirror_waits_for_paused_upstream(
    upstream: Registry, mirrored: Mirror, large: Blob, session: aiohttp.ClientSession
) -> None:
    """A pull that has not received its first byte yet is completed too."""
    async with session.get(f"{mirrored.url}/v2/team/large/manifests/1") as manifest:
        assert manifest.status == 200
    with upstream.silent():
        pull = asyncio.ensure_future(body(session, address(mirrored, large)))
        await eventually(lambda: is_downloading(mirrored))
        interrupt(mirrored)
        await eventually(lambda: is_closed(mirrored))

    assert hashlib.sha256(await pull).hexdigest() == large.digest.partition(":")[2]
    assert await mirrored.program.ended() == 0


async def test_second_interrupt_ends_mirror_at_once(
    mirrored: Mirror, large: Blob, session: aiohttp.ClientSession
) -> None:
    """The time limit is 30 s; a second SIGINT ends the mirror at once, with status 0."""
    async with session.get(address(mirrored, large)) as answer:
        await answer.content.readexactly(2**16)
        interrupt(mirrored)
        await eventually(lambda: is_closed(mirrored))
        assert mirrored.program.running

        interrupt(mirrored)

        assert await mirrored.program.ended(within=10) == 0
    assert mirrored.events("stopped")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_stalled_client_is_disconnected_at_shutdown_limit(
    tmp_path: Path, upstream: Registry, large: Blob, session: aiohttp.ClientSession, number: signal.Signals
) -> None:
    """A client that stopped reading delays the end by [timeouts] shutdown at most; the cache stays intact."""
    configuration = tmp_path / "mirror.toml"
    configuration.write_text('[timeouts]\nshutdown = "1s"\n')
    upstreams = {"docker.io": upstream.url}

    async with (
        mirror(tmp_path / "mirror", "--config", str(configuration), upstreams=upstreams) as first,
        session.get(address(first, large)) as answer,
    ):
        await answer.content.readexactly(2**16)
        first.program.signal(number)

        assert await first.program.ended(within=10) == 0

    async with mirror(tmp_path / "mirror", "--config", str(configuration), upstreams=upstreams) as second:
        content = await body(session, address(second, large))

        assert hashlib.sha256(content).hexdigest() == large.digest.partition(":")[2]
