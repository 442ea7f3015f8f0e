"""`mirror verify`: what the disk has damaged is found, named, and removed or mended; beside a running mirror too."""

import asyncio
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fake.content import Blob, Manifest, image, index
from tests.fake.registry import Registry
from tests.http.client import kept
from tests.http.test_damage import MIB, damage, file_of, mirrors, pull
from tests.http.upstreams import Upstream
from tests.real.mirror import environment
from tests.real.program import Ran, ran

VERIFY = (sys.executable, "-m", "mirror", "verify")


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Registry.running() as registry:
        yield Upstream("r.test", registry)


async def verified(directory: Path, upstream: Upstream, *arguments: str) -> Ran:
    """What `mirror verify` says of this cache directory."""
    given = ("--cache", str(directory / "cache"), "--upstream", f"{upstream.name}={upstream.registry.url}")
    return await ran(*VERIFY, *given, *arguments, env=environment())


async def filled(directory: Path, upstream: Upstream) -> Manifest:
    """A cache directory with an image in it."""
    manifest = upstream.publish(image(1000, 2 * MIB), "v1")
    async with mirrors(directory, upstream) as (_, client):
        await pull(client, upstream, manifest)
    return manifest


async def test_nothing_is_wrong(tmp_path: Path, upstream: Upstream) -> None:
    """Says how much was read; status 0."""
    await filled(tmp_path, upstream)
    result = await verified(tmp_path, upstream)
    assert (result.code, result.output) == (0, "4 blobs, 2.0 MiB read: all good\n"), result


async def test_damage_is_named_and_removed(tmp_path: Path, upstream: Upstream) -> None:
    """Digest, size, which images need it; status 1. A second look finds nothing more."""
    manifest = await filled(tmp_path, upstream)
    layer = manifest.blobs[2]
    damage(file_of(tmp_path, layer), at=MIB)
    result = await verified(tmp_path, upstream)
    assert result.code == 1, result
    assert f"damaged: {layer.digest}, {layer.size} bytes" in result.errors
    assert "r.test/team/app:v1" in result.errors
    assert "1 damaged (0 fetched again, 1 removed)" in result.output
    assert not file_of(tmp_path, layer).exists()
    assert (await verified(tmp_path, upstream)).code == 0


@pytest.mark.parametrize("which", ["layer", "manifest"])
async def test_damage_is_mended_beside_a_running_mirror(tmp_path: Path, upstream: Upstream, which: str) -> None:
    """Fetched again from where it came; the mirror serves it as before, and its figures stay exact."""
    manifest = upstream.publish(image(1000, 2 * MIB), "v1")
    upstream.publish(index(manifest), "all")
    async with mirrors(tmp_path, upstream) as (mirror, client):
        await client.get(upstream.manifest("all"))
        await pull(client, upstream, manifest)
        content = manifest.blobs[2] if which == "layer" else manifest
        size = await mirror.total("mirror_cache_bytes")
        damage(file_of(tmp_path, content))
        result = await verified(tmp_path, upstream, "--repair")
        assert result.code == 1, result
        assert "fetched again from r.test/team/app" in result.errors
        assert "1 damaged (1 fetched again, 0 removed)" in result.output
        assert file_of(tmp_path, content).read_bytes() == content.content
        for blob in manifest.blobs:
            reply = await client.get(upstream.blob(blob))
            assert (reply.cache_status, reply.body) == ("mirror; hit", blob.content), reply
        assert await mirror.total("mirror_cache_bytes") == size
        assert list((tmp_path / "cache" / "ingest").iterdir()) == []
        assert (await verified(tmp_path, upstream, "--repair")).code == 0


async def test_what_can_not_be_mended_is_removed(tmp_path: Path, upstream: Upstream) -> None:
    """With upstream down; a mirror that runs beside fetches it when it is pulled next."""
    manifest = upstream.publish(image(1000, MIB), "v1")
    layer = manifest.blobs[2]
    async with mirrors(tmp_path, upstream) as (_, client):
        await pull(client, upstream, manifest)
        damage(file_of(tmp_path, layer))
        await upstream.registry.go_down()
        result = await verified(tmp_path, upstream, "--repair")
        assert result.code == 1, result
        assert "not fetched again from r.test/team/app" in result.errors
        assert "removed" in result.errors
        await upstream.registry.come_back()
        assert (await client.get(upstream.blob(layer))).body == layer.content
        await kept(client, upstream.blob(layer))


async def test_there_is_nothing_to_verify(tmp_path: Path, upstream: Upstream) -> None:
    """A directory that is no cache: status 2, and nothing is made."""
    result = await verified(tmp_path, upstream)
    assert result.code == 2, result
    assert str(tmp_path / "cache") in result.errors
    assert not (tmp_path / "cache").exists()


async def test_without_a_ledger_damage_is_found_all_the_same(tmp_path: Path, upstream: Upstream) -> None:
    """Only which image it is of is not known; the ledger is left as it is."""
    manifest = await filled(tmp_path, upstream)
    damage(file_of(tmp_path, manifest.blobs[1]))
    ledger = tmp_path / "cache" / "ledger" / "cache.db"
    ledger.write_bytes(b"no database" * 1000)
    result = await verified(tmp_path, upstream, "--repair")
    assert result.code == 1, result
    assert "no image that is known here" in result.errors
    assert ledger.read_bytes() == b"no database" * 1000


async def test_ctrl_c_ends_it(tmp_path: Path, upstream: Upstream) -> None:
    """At once, in the middle of a blob, with what was found so far and status 130; on a terminal, with a bar."""
    blob = upstream.publish_blob(Blob.noise(1000))
    async with mirrors(tmp_path, upstream) as (_, client):
        await client.get(upstream.blob(blob))
        await kept(client, upstream.blob(blob))
    endless = tmp_path / "cache" / "blobs" / "sha256" / ("f" * 64)
    with endless.open("wb") as file:
        os.truncate(file.fileno(), 2**40)  # takes no room, and hours to read
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
