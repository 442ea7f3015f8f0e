"""Ctrl-C and SIGTERM in the middle of a pull."""

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

BALLAST = 48 * 2**20  # bytes; more than the sockets between mirror and client hold (ten megabytes at most)


@pytest.fixture
async def large(upstream: Registry) -> Blob:
    """A blob that takes a while, at team/large."""
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
    """Ctrl-C: the terminal sends SIGINT to the whole process group."""
    os.killpg(mirrored.program.pid, signal.SIGINT)


async def refuses(mirrored: Mirror) -> bool:
    """Whether nobody listens there any more."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", mirrored.port)
    except ConnectionError:  # refused, or reset while it waited to be accepted
        return True
    writer.close()
    return False


async def downloads(mirrored: Mirror) -> bool:
    """Whether a download is under way."""
    return await mirrored.total("mirror_downloads_running") == 1


async def body(session: aiohttp.ClientSession, url: str) -> bytes:
    async with session.get(url) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.read()


async def test_an_interrupted_mirror_lets_a_running_pull_end(
    upstream: Registry, mirrored: Mirror, large: Blob, session: aiohttp.ClientSession
) -> None:
    """After Ctrl-C nobody new comes in; who is reading gets all of the bytes; then the exit code is 0."""
    async with session.get(address(mirrored, large)) as answer:
        received = hashlib.sha256(await answer.content.readexactly(2**16))
        interrupt(mirrored)
        await eventually(lambda: refuses(mirrored))

        assert mirrored.program.running
        async for chunk in answer.content.iter_any():
            received.update(chunk)

    assert f"sha256:{received.hexdigest()}" == large.digest
    assert await mirrored.program.ended() == 0


async def test_an_interrupted_mirror_waits_for_an_upstream_that_pauses(
    upstream: Registry, mirrored: Mirror, large: Blob, session: aiohttp.ClientSession
) -> None:
    """A pull whose first byte hasn't come yet is running too."""
    async with session.get(f"{mirrored.url}/v2/team/large/manifests/1") as manifest:
        assert manifest.status == 200
    with upstream.silent():
        pull = asyncio.ensure_future(body(session, address(mirrored, large)))
        await eventually(lambda: downloads(mirrored))
        interrupt(mirrored)
        await eventually(lambda: refuses(mirrored))

    assert hashlib.sha256(await pull).hexdigest() == large.digest.partition(":")[2]
    assert await mirrored.program.ended() == 0


async def test_whoever_presses_ctrl_c_twice_waits_for_nobody(
    mirrored: Mirror, large: Blob, session: aiohttp.ClientSession
) -> None:
    """The limit is half a minute; a second Ctrl-C ends it at once, in order."""
    async with session.get(address(mirrored, large)) as answer:
        await answer.content.readexactly(2**16)
        interrupt(mirrored)
        await eventually(lambda: refuses(mirrored))
        assert mirrored.program.running

        interrupt(mirrored)

        assert await mirrored.program.ended(within=10) == 0
    assert mirrored.events("stopped")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_who_never_ends_is_cut_off_at_the_limit(
    tmp_path: Path, upstream: Registry, large: Blob, session: aiohttp.ClientSession, number: signal.Signals
) -> None:
    """A client that stopped reading keeps the mirror for [timeouts] shutdown, and not longer; the cache stays good."""
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
