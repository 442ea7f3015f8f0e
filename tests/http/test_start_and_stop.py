"""Starts, stops and restarts: cached images survive them, and responses in flight are completed."""

import asyncio
import json
import re
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.fake.answers import Valve
from tests.fake.content import Blob, Manifest, image
from tests.fake.faults import Hold
from tests.fake.registry import Registry
from tests.http.client import WITHIN, Client, read_rest, wait_until_cached
from tests.http.upstreams import CALM, Upstream, sections
from tests.real.mirror import COMMAND, Mirror, environment
from tests.real.program import running

MIB = 2**20


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """The upstream."""
    async with Registry.running() as registry:
        yield Upstream("r.test", registry)


@asynccontextmanager
async def started(
    directory: Path, upstream: Upstream, *arguments: str, tags: str = ""
) -> AsyncIterator[tuple[Mirror, Client]]:
    """Run a mirror over this directory, with a client; the test decides how the mirror ends."""
    config = directory / "mirror.toml"
    config.write_text(CALM + f"[tags]\n{tags}\n" + sections([upstream]))
    argv = [*COMMAND, "--listen", "127.0.0.1:0", "--cache", str(directory / "cache"), "--log-format", "json"]
    log = directory / "mirror.log"
    log.write_text("")
    async with running([*argv, "--config", str(config), *arguments], log=log, env=environment()) as program:
        mirror = Mirror(program, directory / "cache")
        await mirror.serving()
        async with Client.of(mirror.url) as client:
            yield mirror, client
    assert "Traceback" not in program.said(), str(program)


async def pull(client: Client, upstream: Upstream, manifest: Manifest) -> None:
    """Pull a whole image by tag, and wait until it is stored."""
    assert (await client.get(upstream.manifest("v1"))).body == manifest.content
    assert (await client.get(upstream.manifest(manifest))).body == manifest.content
    for blob in manifest.blobs:
        reply = await client.get(upstream.blob(blob))
        assert (reply.status, reply.whole, reply.body) == (200, True, blob.content)
        await wait_until_cached(client, upstream.blob(blob))


@pytest.mark.parametrize("fresh_for", ["60s", "0s"])
async def test_cached_image_survives_a_restart_during_an_outage(
    tmp_path: Path, upstream: Upstream, fresh_for: str
) -> None:
    """Tags, media types and blobs are still known, fresh or stale, though upstream is down from the start."""
    manifest = upstream.publish(image(1000, MIB, docker=True), "v1")
    tags = f'fresh_for = "{fresh_for}"'
    async with started(tmp_path, upstream, tags=tags) as (_, client):
        await pull(client, upstream, manifest)
    await upstream.registry.go_down()
    async with started(tmp_path, upstream, tags=tags) as (_, client):
        await pull(client, upstream, manifest)
        reply = await client.get(upstream.manifest("v1"))
        assert reply.headers["Content-Type"] == manifest.media_type
        assert ("Warning" in reply.headers) == (fresh_for == "0s")
        assert (await client.get(upstream.manifest("v2"))).status in (503, 504)


async def test_cached_image_survives_kill_9(tmp_path: Path, upstream: Upstream) -> None:
    """After a start following kill -9, the image is served from the cache."""
    manifest = upstream.publish(image(1000, MIB), "v1")
    async with started(tmp_path, upstream) as (mirror, client):
        await pull(client, upstream, manifest)
        await mirror.program.kill()
    await upstream.registry.go_down()
    async with started(tmp_path, upstream) as (_, client):
        await pull(client, upstream, manifest)


async def test_kill_9_during_a_download(tmp_path: Path, upstream: Upstream) -> None:
    """No partial blob is served after the restart; the download is resumed."""
    blob = upstream.publish_blob(Blob.noise(16 * MIB))
    valve = Valve()
    upstream.registry.inject(Hold(valve, at=12 * MIB), times=1)
    async with started(tmp_path, upstream) as (mirror, client), client.open(upstream.blob(blob)) as answer:
        await answer.content.readexactly(11 * MIB)
        await mirror.program.kill()
    valve.open()
    async with started(tmp_path, upstream) as (_, client):
        reply = await client.get(upstream.blob(blob))
        assert (reply.status, reply.whole, reply.body) == (200, True, blob.content)
    resumed = re.fullmatch(r"bytes=(\d+)-", upstream.registry.of_blob(blob)[-1].range or "")
    assert resumed, "the whole blob was asked for again"
    assert int(resumed[1]) >= 4 * MIB


async def test_sigterm_completes_responses_in_flight(tmp_path: Path, upstream: Upstream) -> None:
    """New connections are refused, the response in flight is completed, and the exit code is 0."""
    blob = upstream.publish_blob(Blob.noise(4 * MIB))
    valve = Valve()
    upstream.registry.inject(Hold(valve, at=2 * MIB))
    async with started(tmp_path, upstream) as (mirror, client):
        async with client.open(upstream.blob(blob)) as answer:
            begin = await answer.content.readexactly(MIB)
            mirror.program.signal(signal.SIGTERM)
            await stops_listening(mirror)
            valve.open()
            rest, whole = await read_rest(answer)
        assert await mirror.program.ended(within=5) == 0
        assert whole
        assert begin + rest == blob.content


async def takes_connections(mirror: Mirror) -> bool:
    """Return whether the mirror's port accepts connections."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", mirror.port)
    except ConnectionError:  # refused; or reset, if the port closed while the connection waited to be accepted
        return False
    writer.close()
    return True


async def stops_listening(mirror: Mirror) -> None:
    """Wait until the port accepts no connections."""
    async with asyncio.timeout(WITHIN):
        while await takes_connections(mirror):  # noqa: ASYNC110 - another process has no event
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_shutdown_timeout_aborts_hanging_responses(
    tmp_path: Path, upstream: Upstream, number: signal.Signals
) -> None:
    """A hanging response is aborted after the configured two seconds; the exit code is still 0."""
    blob = upstream.publish_blob(Blob.noise(4 * MIB))
    upstream.registry.inject(Hold(Valve(), at=2 * MIB))
    async with started(tmp_path, upstream) as (mirror, client), client.open(upstream.blob(blob)) as answer:
        await answer.content.readexactly(MIB)
        mirror.program.signal(number)
        assert await mirror.program.ended(within=3.5) == 0
        with pytest.raises((aiohttp.ClientPayloadError, ConnectionError)):
            await answer.read()


async def test_idle_connection_does_not_delay_shutdown(tmp_path: Path, upstream: Upstream) -> None:
    """Connections kept open by clients do not delay the end."""
    async with started(tmp_path, upstream) as (mirror, _):
        _, writer = await asyncio.open_connection("127.0.0.1", mirror.port)
        mirror.program.signal(signal.SIGTERM)
        assert await mirror.program.ended(within=5) == 0
        writer.close()


async def test_offline_mode_sends_no_upstream_request(tmp_path: Path, upstream: Upstream) -> None:
    """Cached content is served, everything else is 404."""
    manifest = upstream.publish(image(1000), "v1")
    missing = upstream.publish(image(1000), "v2")
    async with started(tmp_path, upstream, tags='fresh_for = "0s"') as (_, client):
        await pull(client, upstream, manifest)
    upstream.registry.journal.entries.clear()
    async with started(tmp_path, upstream, "--offline", tags='fresh_for = "0s"') as (_, client):
        await pull(client, upstream, manifest)
        for target in (upstream.manifest("v2"), upstream.manifest(missing), upstream.blob(missing.blobs[1])):
            reply = await client.get(target)
            assert reply.status in (404, 503, 504), reply
            assert "offline" in str(reply.error["message"])
            assert (await client.head(target)).status == reply.status
    assert len(upstream.registry.journal) == 0


async def test_cache_is_an_oci_layout(tmp_path: Path, upstream: Upstream) -> None:
    """Other tools can read it: the marker file, and every blob under its digest."""
    manifest = upstream.publish(image(1000), "v1")
    async with started(tmp_path, upstream) as (_, client):
        await pull(client, upstream, manifest)
    cache = tmp_path / "cache"
    assert json.loads((cache / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    for content, digest in [(manifest.content, manifest.digest), *((b.content, b.digest) for b in manifest.blobs)]:
        algorithm, _, name = digest.partition(":")
        path = cache / "blobs" / algorithm / name
        assert path.read_bytes() == content
        assert path.stat().st_mode & 0o222 == 0
    assert not [path for path in (cache / "ingest").rglob("*") if path.is_file()]


async def test_lost_fact_database_causes_no_blob_download(tmp_path: Path, upstream: Upstream) -> None:
    """Facts are requested again or found in blobs/; no blob is downloaded a second time."""
    manifest = upstream.publish(image(1000, MIB), "v1")
    async with started(tmp_path, upstream) as (_, client):
        await pull(client, upstream, manifest)
    shutil.rmtree(tmp_path / "cache" / "ledger")
    upstream.registry.journal.entries.clear()
    async with started(tmp_path, upstream) as (_, client):
        await pull(client, upstream, manifest)
    assert sum(seen.sent for seen in upstream.registry.journal.of("GET", "*/blobs/*")) == 0


async def test_foreign_files_in_the_cache_are_ignored(tmp_path: Path, upstream: Upstream) -> None:
    """Foreign files and lost+found in the cache directory are left alone."""
    blobs = tmp_path / "cache" / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (blobs / "README").write_text("mine")
    (blobs / ("A" * 64)).write_text("mine")
    (tmp_path / "cache" / "lost+found").mkdir()
    manifest = upstream.publish(image(1000), "v1")
    async with started(tmp_path, upstream) as (_, client):
        await pull(client, upstream, manifest)
    assert (blobs / "README").read_text() == "mine"
