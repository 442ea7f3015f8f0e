"""Damage to the cache directory, by the disk or by other programs, during a run or before the start."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.fake.content import Blob, Manifest, image, index
from tests.fake.registry import Registry
from tests.http.client import Client, poll_until, wait_until_cached
from tests.http.upstreams import CALM, Upstream
from tests.real.mirror import COMMAND, Mirror, environment
from tests.real.mirror import mirror as running_mirror
from tests.real.mounts import read_only
from tests.real.program import ran

MIB = 2**20


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Registry.running() as registry:
        yield Upstream("r.test", registry)


@asynccontextmanager
async def mirrors(
    directory: Path, upstream: Upstream, *arguments: str, scrub_rate: str = "0"
) -> AsyncIterator[tuple[Mirror, Client]]:
    config = directory / "mirror.toml"
    config.write_text(f'{CALM}\n[cache]\nmin_free = "0"\nscrub_rate = "{scrub_rate}"\n')
    more = ("--config", str(config), *arguments)
    async with (
        running_mirror(directory, *more, upstreams={upstream.name: upstream.registry.url}) as mirror,
        Client.of(mirror.url) as client,
    ):
        yield mirror, client


async def pull(client: Client, upstream: Upstream, manifest: Manifest) -> None:
    """Pull a whole image by tag, and wait until it is stored."""
    assert (await client.get(upstream.manifest("v1"))).body == manifest.content
    for blob in manifest.blobs:
        assert (await client.get(upstream.blob(blob))).body == blob.content
    await wait_until_cached(client, *(upstream.blob(blob) for blob in manifest.blobs))


def file_of(directory: Path, content: Blob | Manifest) -> Path:
    algorithm, _, name = content.digest.partition(":")
    return directory / "cache" / "blobs" / algorithm / name


def damage(file: Path, *, at: int = -1) -> None:
    """Flip one bit, in a new file, since a running mirror may have the old one mapped."""
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.unlink()
    file.write_bytes(content)


async def metric_reaches(mirror: Mirror, metric: str, at_least: float) -> None:
    async with asyncio.timeout(20):
        while await mirror.total(metric) < at_least:  # noqa: ASYNC110 - metrics have no event
            await asyncio.sleep(0.05)


async def damaged_digests(mirror: Mirror) -> list[object]:
    """Return the digests in the blob_damaged events, once there is one."""
    await mirror.program.until(lambda: bool(mirror.events("blob_damaged")))
    return [event["digest"] for event in mirror.events("blob_damaged")]


# Damaged files


@pytest.mark.parametrize("by", [-10, 10])
async def test_blob_file_of_wrong_size_is_not_served(tmp_path: Path, upstream: Upstream, by: int) -> None:
    """A file shorter or longer than stored is removed, and the blob is downloaded again."""
    blob = upstream.publish_blob(Blob.noise(MIB))
    async with mirrors(tmp_path, upstream) as (mirror, client):
        await client.get(upstream.blob(blob))
        await wait_until_cached(client, upstream.blob(blob))
        file = file_of(tmp_path, blob)
        file.chmod(0o644)
        os.truncate(file, blob.size + by)
        reply = await client.get(upstream.blob(blob))
        assert (reply.status, reply.whole, reply.body) == (200, True, blob.content), reply
        await wait_until_cached(client, upstream.blob(blob))
        assert file.read_bytes() == blob.content
        assert await damaged_digests(mirror) == [blob.digest]
        assert await mirror.total("mirror_cache_bytes") == blob.size


async def test_damaged_manifest_is_not_served(tmp_path: Path, upstream: Upstream) -> None:
    """Manifests are small enough to be verified on every read from the disk."""
    manifest = upstream.publish(image(1000), "v1")
    async with mirrors(tmp_path, upstream) as (_, client):
        await pull(client, upstream, manifest)
    damage(file_of(tmp_path, manifest))
    async with mirrors(tmp_path, upstream) as (mirror, client):
        for _ in range(2):
            assert (await client.get(upstream.manifest(manifest))).body == manifest.content
        assert await mirror.total("mirror_blobs_damaged_total") == 1
        assert file_of(tmp_path, manifest).read_bytes() == manifest.content


async def test_scrub_finds_a_flipped_bit(tmp_path: Path, upstream: Upstream) -> None:
    """The scrub finds it in a blob without requests; the file is removed, and the blob downloaded again."""
    manifest = upstream.publish(image(100_000, 3 * MIB), "v1")
    async with mirrors(tmp_path, upstream) as (_, client):
        await pull(client, upstream, manifest)
    layer = manifest.blobs[2]
    damage(file_of(tmp_path, layer), at=MIB)
    async with mirrors(tmp_path, upstream, scrub_rate="40MiB") as (mirror, client):
        await metric_reaches(mirror, "mirror_blobs_damaged_total", 1)
        assert await damaged_digests(mirror) == [layer.digest]
        assert not file_of(tmp_path, layer).exists()
        assert (await client.get(upstream.blob(layer))).body == layer.content
        await metric_reaches(mirror, "mirror_scrubbed_bytes_total", 3 * MIB)
        for blob in manifest.blobs[:2]:
            assert (await client.get(upstream.blob(blob))).cache_status == "mirror; hit"


async def test_scrub_keeps_to_scrub_rate(tmp_path: Path, upstream: Upstream) -> None:
    """At 2 MiB/s, a good part of 8 MiB is left after a second."""
    blob = upstream.publish_blob(Blob.noise(8 * MIB))
    async with mirrors(tmp_path, upstream) as (_, client):
        await client.get(upstream.blob(blob))
        await wait_until_cached(client, upstream.blob(blob))
    async with mirrors(tmp_path, upstream, scrub_rate="2MiB") as (mirror, _):
        began = asyncio.get_running_loop().time()
        await metric_reaches(mirror, "mirror_scrubbed_bytes_total", MIB)
        read = await mirror.total("mirror_scrubbed_bytes_total")
        assert read <= 2 * MIB * (asyncio.get_running_loop().time() - began + 2)


# Leftovers of a crash


async def test_complete_ingest_is_committed_without_download(tmp_path: Path, upstream: Upstream) -> None:
    """After a kill between last byte and commit, one byte is requested, so that upstream authorizes the client."""
    blob, private = Blob.noise(MIB), Blob.noise(MIB)
    upstream.publish_blob(blob)
    (tmp_path / "cache" / "ingest").mkdir(parents=True)
    for one in (blob, private):
        (tmp_path / "cache" / "ingest" / one.digest.replace(":", "-")).write_bytes(one.content)
    async with mirrors(tmp_path, upstream) as (mirror, client):
        reply = await client.get(upstream.blob(blob))
        assert (reply.status, reply.whole, reply.body) == (200, True, blob.content), reply
        await wait_until_cached(client, upstream.blob(blob))
        (seen,) = upstream.registry.of_blob(blob)
        assert seen.range == f"bytes={MIB - 1}-"
        assert (await client.get(upstream.blob(private))).status == 404
        assert await mirror.total("mirror_cache_bytes") == 2 * MIB


# A lost fact database


def randomize(ledger: Path) -> None:
    for file in ledger.iterdir():
        file.write_bytes(os.urandom(file.stat().st_size or 100))


def cut(ledger: Path) -> None:
    os.truncate(ledger / "cache.db", 5000)


def empty(ledger: Path) -> None:
    for file in ledger.iterdir():
        os.truncate(file, 0)


def delete(ledger: Path) -> None:
    shutil.rmtree(ledger)


LOSSES: dict[str, Callable[[Path], None]] = {
    "deleted": delete,
    "random bytes": randomize,
    "truncated": cut,
    "emptied": empty,
}


@pytest.mark.parametrize("loss", LOSSES)
async def test_lost_fact_database_is_rebuilt(tmp_path: Path, upstream: Upstream, loss: str) -> None:
    """Manifests come from the blobs, names and rights from index.json: the upstream is asked for no blob."""
    images = [image(1000), image(2000)]
    platforms = upstream.publish(index(*images), "v1")
    async with mirrors(tmp_path, upstream) as (_, client):
        assert (await client.get(upstream.manifest("v1"))).body == platforms.content
        for child in images:
            assert (await client.get(upstream.manifest(child))).body == child.content
            for blob in child.blobs:
                await client.get(upstream.blob(blob))
            await wait_until_cached(client, *(upstream.blob(blob) for blob in child.blobs))
    LOSSES[loss](tmp_path / "cache" / "ledger")
    asked = len(upstream.registry.journal)
    async with mirrors(tmp_path, upstream) as (mirror, client):
        await mirror.program.until(lambda: bool(mirror.events("facts_rebuilt")))
        (told,) = mirror.events("facts_rebuilt")
        assert (told["blobs"], told["manifests"]) == (7, 3)
        reply = await client.get(upstream.manifest("v1"))
        assert (reply.body, reply.headers["Content-Type"]) == (platforms.content, platforms.media_type)
        for child in images:
            for blob in child.blobs:
                assert (await client.get(upstream.blob(blob))).cache_status == "mirror; hit"
        later = upstream.registry.journal.entries[asked:]
        assert not [seen for seen in later if "/blobs/" in seen.path]
    async with mirrors(tmp_path, upstream) as (mirror, _):
        await mirror.program.until(lambda: bool(mirror.events("listening")))
        assert not mirror.events("facts_rebuilt")


async def test_lost_fact_database_restores_only_rights_of_named_images(tmp_path: Path, upstream: Upstream) -> None:
    """Rights come back for images that index.json names, in their repository only; without the file there are none."""
    manifest = upstream.publish(image(1000), "v1")
    other = Upstream("s.test", upstream.registry)
    targets = (upstream.manifest("v1"), upstream.manifest(manifest), upstream.blob(manifest.blobs[1]))
    async with mirrors(tmp_path, upstream) as (_, client):
        await pull(client, upstream, manifest)
    cache = tmp_path / "cache"
    shutil.rmtree(cache / "ledger")
    named = (cache / "index.json").read_bytes()
    (cache / "index.json").unlink()
    async with mirrors(tmp_path, upstream, "--offline") as (mirror, client):
        await mirror.program.until(lambda: bool(mirror.events("facts_rebuilt")))
        for target in targets:
            assert (await client.get(target)).status == 404
    shutil.rmtree(cache / "ledger")
    (cache / "index.json").write_bytes(named)
    async with mirrors(tmp_path, upstream, "--offline") as (mirror, client):
        await mirror.program.until(lambda: bool(mirror.events("facts_rebuilt")))
        for target in targets:
            assert (await client.get(target)).status == 200
        for target in (other.manifest("v1"), other.manifest(manifest), other.blob(manifest.blobs[1])):
            assert (await client.get(target)).status == 404


# An unusable directory


async def start_error(directory: Path) -> str:
    """Return the error message of a mirror that does not start, with exit status 2."""
    argv = [*COMMAND, "--listen", "127.0.0.1:0", "--cache", str(directory / "cache"), "--log-format", "json"]
    result = await ran(*argv, env=environment())
    assert result.code == 2, result
    assert "Traceback" not in result.errors, result
    return result.errors


@pytest.mark.parametrize("name", ["cache", "cache/blobs", "cache/ingest", "cache/blobs/sha256"])
async def test_file_in_place_of_a_directory_stops_the_start(tmp_path: Path, name: str) -> None:
    """The message names problem, path and remedy; with status 2 a supervisor should not restart."""
    (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / name).write_text("")
    said = await start_error(tmp_path)
    assert str(tmp_path / "cache") in said
    assert "--cache" in said


@pytest.mark.needs("mount", root=True)
async def test_read_only_cache_stops_the_start(tmp_path: Path, upstream: Upstream) -> None:
    """The message is the same for a used cache directory, and does not mention damage."""
    async with mirrors(tmp_path, upstream):
        pass
    with read_only(tmp_path / "cache"):
        said = await start_error(tmp_path)
    assert f"the cache directory {tmp_path / 'cache'} can't be used" in said
    assert "Read-only file system" in said
    assert "damaged" not in said


@pytest.mark.needs("mount", root=True)
async def test_cache_becomes_read_only(tmp_path: Path, upstream: Upstream) -> None:
    """Hits stay hits, misses pass through unstored, there is one warning; afterwards blobs are stored again."""
    manifest = upstream.publish(image(1000, MIB), "v1")
    lone = upstream.publish_blob(Blob.noise(MIB))
    async with mirrors(tmp_path, upstream) as (mirror, client):
        await pull(client, upstream, manifest)
        other = upstream.publish(image(1000, MIB), "v2")
        with read_only(tmp_path / "cache" / "blobs", tmp_path / "cache" / "ingest"):
            for _ in range(10):
                assert (await client.get(upstream.blob(manifest.blobs[1]))).cache_status == "mirror; hit"
                assert (await client.get(upstream.manifest("v2"))).body == other.content
                for blob in (*other.blobs, lone):
                    reply = await client.get(upstream.blob(blob))
                    assert (reply.status, reply.whole, reply.body) == (200, True, blob.content), reply
            ready = await client.get("/readyz")
            assert (ready.status, b'"cache": "failing: ' in ready.body) == (200, True), ready
            assert len(mirror.events("cache_failing")) == 1
            assert await mirror.total("mirror_cache_writable") == 0

        async def ask() -> None:
            await poll_until(lambda: client.get(upstream.blob(lone)), lambda reply: reply.cache_status == "mirror; hit")

        await ask()
        assert await mirror.total("mirror_cache_writable") == 1
        assert b'"cache": "ok"' in (await client.get("/readyz")).body


async def test_cache_directory_is_removed(tmp_path: Path, upstream: Upstream) -> None:
    """Pulls pass through when the directory is removed under the running mirror, and are soon stored in a new one."""
    manifest = upstream.publish(image(1000, MIB), "v1")
    async with mirrors(tmp_path, upstream) as (mirror, client):
        await pull(client, upstream, manifest)
        shutil.rmtree(tmp_path / "cache")
        assert (await client.get(upstream.manifest("v1"))).body == manifest.content
        for blob in manifest.blobs:
            reply = await client.get(upstream.blob(blob))
            assert (reply.status, reply.whole, reply.body) == (200, True, blob.content), reply
        for blob in manifest.blobs:
            target = upstream.blob(blob)
            await poll_until(lambda: client.get(target), lambda reply: reply.cache_status == "mirror; hit")  # noqa: B023
        assert file_of(tmp_path, manifest.blobs[1]).read_bytes() == manifest.blobs[1].content
        assert len(mirror.events("cache_failing")) <= 1


@pytest.mark.parametrize("name", ["blobs", "ingest", "blobs/sha256"])
async def test_file_temporarily_in_place_of_a_directory(tmp_path: Path, upstream: Upstream, name: str) -> None:
    """All requests succeed meanwhile, and afterwards stored blobs are hits again."""
    blob, later = upstream.publish_blob(Blob.noise(MIB)), upstream.publish_blob(Blob.noise(MIB))
    async with mirrors(tmp_path, upstream) as (_, client):
        await client.get(upstream.blob(blob))
        await wait_until_cached(client, upstream.blob(blob))
        place, aside = tmp_path / "cache" / name, tmp_path / "aside"
        place.rename(aside)
        place.write_text("")
        for one in (blob, later):
            reply = await client.get(upstream.blob(one))
            assert (reply.status, reply.whole, reply.body) == (200, True, one.content), reply
        place.unlink()
        aside.rename(place)
        for one in (later, blob):
            target = upstream.blob(one)
            await poll_until(lambda: client.get(target), lambda reply: reply.cache_status == "mirror; hit")  # noqa: B023
