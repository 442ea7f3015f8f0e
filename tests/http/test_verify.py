"""`mirror verify`: finds, reports and removes or repairs damaged blobs, beside a running mirror too."""

import asyncio
import os
import pty
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fake.content import Blob, Manifest, image, index
from tests.fake.registry import Registry
from tests.http.client import poll_until, wait_until_cached
from tests.http.test_damage import MIB, damage, file_of, mirrors, pull
from tests.http.upstreams import Upstream
from tests.real.mirror import environment
from tests.real.program import Ran, ran

VERIFY = (sys.executable, "-m", "mirror", "verify")


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Registry.running() as registry:
        yield Upstream("r.test", registry)


async def verify(directory: Path, upstream: Upstream, *arguments: str) -> Ran:
    """Run `mirror verify` on this cache directory."""
    given = ("--cache", str(directory / "cache"), "--upstream", f"{upstream.name}={upstream.registry.url}")
    return await ran(*VERIFY, *given, *arguments, env=environment())


async def fill_cache(directory: Path, upstream: Upstream) -> Manifest:
    """Fill a cache directory with an image."""
    manifest = upstream.publish(image(1000, 2 * MIB), "v1")
    async with mirrors(directory, upstream) as (_, client):
        await pull(client, upstream, manifest)
    return manifest


async def test_intact_cache(tmp_path: Path, upstream: Upstream) -> None:
    """The output says how much was read; status 0."""
    await fill_cache(tmp_path, upstream)
    result = await verify(tmp_path, upstream)
    assert (result.code, result.output) == (0, "4 blobs, 2.0 MiB read: all good\n"), result


async def test_damaged_blob_is_reported_and_removed(tmp_path: Path, upstream: Upstream) -> None:
    """Digest, size, the images that need it; status 1. A second run finds nothing."""
    manifest = await fill_cache(tmp_path, upstream)
    layer = manifest.blobs[2]
    damage(file_of(tmp_path, layer), at=MIB)
    result = await verify(tmp_path, upstream)
    assert result.code == 1, result
    assert f"damaged: {layer.digest}, {layer.size} bytes" in result.errors
    assert "r.test/team/app:v1" in result.errors
    assert "1 damaged (0 fetched again, 1 removed)" in result.output
    assert not file_of(tmp_path, layer).exists()
    assert (await verify(tmp_path, upstream)).code == 0


@pytest.mark.parametrize("which", ["layer", "manifest"])
async def test_repair_beside_a_running_mirror(tmp_path: Path, upstream: Upstream, which: str) -> None:
    """The blob is downloaded again from its upstream; the mirror serves it as before, with exact metrics."""
    manifest = upstream.publish(image(1000, 2 * MIB), "v1")
    upstream.publish(index(manifest), "all")
    async with mirrors(tmp_path, upstream) as (mirror, client):
        await client.get(upstream.manifest("all"))
        await pull(client, upstream, manifest)
        content = manifest.blobs[2] if which == "layer" else manifest
        size = await mirror.total("mirror_cache_bytes")
        damage(file_of(tmp_path, content))
        result = await verify(tmp_path, upstream, "--repair")
        assert result.code == 1, result
        assert "fetched again from r.test/team/app" in result.errors
        assert "1 damaged (1 fetched again, 0 removed)" in result.output
        assert file_of(tmp_path, content).read_bytes() == content.content
        for blob in manifest.blobs:
            reply = await client.get(upstream.blob(blob))
            assert (reply.cache_status, reply.body) == ("mirror; hit", blob.content), reply
        assert await mirror.total("mirror_cache_bytes") == size
        assert list((tmp_path / "cache" / "ingest").iterdir()) == []
        assert (await verify(tmp_path, upstream, "--repair")).code == 0


async def test_repaired_blob_of_another_size_is_served_whole(tmp_path: Path, upstream: Upstream) -> None:
    """A truncated file counts as whole if the fact database is lost, until its repair beside the mirror."""
    manifest = await fill_cache(tmp_path, upstream)
    layer = manifest.blobs[2]
    file_of(tmp_path, layer).chmod(0o644)
    os.truncate(file_of(tmp_path, layer), MIB)
    shutil.rmtree(tmp_path / "cache" / "ledger")
    async with mirrors(tmp_path, upstream) as (_, client):
        assert len((await client.get(upstream.blob(layer))).body) == MIB
        assert "1 damaged (1 fetched again, 0 removed)" in (await verify(tmp_path, upstream, "--repair")).output
        for _ in range(2):
            reply = await client.get(upstream.blob(layer))
            assert (reply.length, reply.whole, reply.body) == (layer.size, True, layer.content)


async def test_irreparable_blob_is_removed(tmp_path: Path, upstream: Upstream) -> None:
    """Upstream is down; the running mirror downloads the blob with the next pull."""
    manifest = upstream.publish(image(1000, MIB), "v1")
    layer = manifest.blobs[2]
    async with mirrors(tmp_path, upstream) as (_, client):
        await pull(client, upstream, manifest)
        damage(file_of(tmp_path, layer))
        await upstream.registry.go_down()
        result = await verify(tmp_path, upstream, "--repair")
        assert result.code == 1, result
        assert "not fetched again from r.test/team/app" in result.errors
        assert "removed" in result.errors
        await upstream.registry.come_back()
        # The repair failed in this mirror, so its circuit breaker is open for a second.
        reply = await poll_until(lambda: client.get(upstream.blob(layer)), lambda reply: reply.status == 200)
        assert reply.body == layer.content
        await wait_until_cached(client, upstream.blob(layer))


async def test_missing_cache_directory_is_an_error(tmp_path: Path, upstream: Upstream) -> None:
    """Status 2, and the directory is not created."""
    result = await verify(tmp_path, upstream)
    assert result.code == 2, result
    assert str(tmp_path / "cache") in result.errors
    assert not (tmp_path / "cache").exists()


async def test_verify_with_a_broken_fact_database(tmp_path: Path, upstream: Upstream) -> None:
    """Damage is found, and the images that need the blob are known from index.json."""
    manifest = await fill_cache(tmp_path, upstream)
    damage(file_of(tmp_path, manifest.blobs[1]))
    (tmp_path / "cache" / "ledger" / "cache.db").write_bytes(b"no database" * 1000)
    result = await verify(tmp_path, upstream, "--repair")
    assert result.code == 1, result
    assert "r.test/team/app:v1" in result.errors
    assert "1 damaged (1 fetched again, 0 removed)" in result.output
    assert (await verify(tmp_path, upstream)).code == 0


async def test_blob_of_no_image_is_removed(tmp_path: Path, upstream: Upstream) -> None:
    """No repository is known from which to fetch it."""
    manifest = await fill_cache(tmp_path, upstream)
    damage(file_of(tmp_path, manifest.blobs[1]))
    for name in ("ledger", "index.json"):
        path = tmp_path / "cache" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    result = await verify(tmp_path, upstream, "--repair")
    assert result.code == 1, result
    assert "no known image" in result.errors
    assert "1 damaged (0 fetched again, 1 removed)" in result.output


async def test_intact_cache_is_only_read(tmp_path: Path, upstream: Upstream) -> None:
    """Verification itself writes nothing."""
    await fill_cache(tmp_path, upstream)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    assert (await verify(tmp_path, upstream)).code == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")} == before


async def test_ctrl_c_stops_verify(tmp_path: Path, upstream: Upstream) -> None:
    """It stops within a blob, with the results so far and status 130; on a terminal it shows a progress bar."""
    blob = upstream.publish_blob(Blob.noise(1000))
    async with mirrors(tmp_path, upstream) as (_, client):
        await client.get(upstream.blob(blob))
        await wait_until_cached(client, upstream.blob(blob))
    endless = tmp_path / "cache" / "blobs" / "sha256" / ("f" * 64)
    with endless.open("wb") as file:
        os.truncate(file.fileno(), 2**40)  # occupies no space, and takes hours to read
    ours, theirs = pty.openpty()
    child = await asyncio.create_subprocess_exec(
        *VERIFY,
        *("--cache", str(tmp_path / "cache"), "--jobs", "1"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, **environment(), "TERM": "xterm"},
    )
    os.close(theirs)
    try:
        said = b""
        async with asyncio.timeout(20):
            while b"TiB" not in said:
                said += await asyncio.to_thread(os.read, ours, 4096)
        child.send_signal(signal.SIGINT)
        async with asyncio.timeout(20):
            output, _ = await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
        os.close(ours)
    assert child.returncode == 130
    assert output.decode().endswith("stopped\n")
    assert endless.exists()
