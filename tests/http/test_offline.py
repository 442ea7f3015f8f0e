"""An offline mirror: cached content is served, everything else is 404, and no connection is opened."""

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fake.content import OCI_INDEX, Blob, Manifest, artifact, descriptor, image, index
from tests.fake.registry import Registry
from tests.http.client import Client, wait_until_cached
from tests.http.upstreams import CALM, Upstream, section
from tests.real.mirror import mirror as running_mirror


@contextlib.asynccontextmanager
async def started(directory: Path, url: str, *arguments: str) -> AsyncIterator[Client]:
    """Run a mirror over this directory with upstream r.test, whose tags are never fresh."""
    config = directory / "mirror.toml"
    config.write_text(f'{CALM}[tags]\nfresh_for = "0s"\n{section("r.test", url, "default = true")}')
    async with (
        running_mirror(directory, "--config", str(config), *arguments) as mirror,
        Client.of(mirror.url) as client,
    ):
        yield client


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[tuple[str, list[int]]]:
    """Yield the address of a listener, and a list with one entry per connection."""
    connections: list[int] = []

    async def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        writer.close()

    server = await asyncio.start_server(note, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", connections


@pytest.mark.parametrize("by_digest", [False, True])
async def test_copied_cache_serves_the_same_pulls_offline(tmp_path: Path, by_digest: bool) -> None:
    """Index, platform, layers, referrers, by tag and digest; every miss is 404; no connection is opened."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    async with Registry.running() as registry:
        upstream = Upstream("r.test", registry)
        ours = image(1000, 50_000)
        both = upstream.publish(index(ours, image(7)), "v1")
        sbom = upstream.publish(artifact("x/sbom", Blob.noise(40), both))
        signature = upstream.publish(artifact("x/sig", Blob.noise(30)), f"{both.digest.replace(':', '-')}.sig")
        pulls = targets_of(upstream, both, by_digest=by_digest)
        pulls |= targets_of(upstream, ours, by_digest=True) | targets_of(upstream, signature, by_digest=True)
        pulls |= targets_of(upstream, sbom, by_digest=True)
        pulls[upstream.manifest(f"{both.digest.replace(':', '-')}.sig")] = signature.content
        async with started(here, registry.url) as client:
            for target, content in pulls.items():
                assert (await client.get(target)).body == content
                await wait_until_cached(client, *([target] if "/blobs/" in target else []))
    shutil.copytree(here / "cache", there / "cache")
    async with listening() as (url, connections), started(there, url, "--offline") as client:
        for target, content in pulls.items():
            reply = await client.get(target)
            assert (reply.status, reply.body) == (200, content), reply
            assert (await client.head(target)).status == 200
        for what in (
            "manifests/v2",
            f"manifests/{image(1).digest}",
            f"blobs/{image(1).digest}",
            f"referrers/{ours.digest}",
        ):
            reply = await client.get(f"/v2/r.test/team/app/{what}")
            assert reply.status == 404, reply
            assert "offline" in str(reply.error["message"])
        for unlisted in ("manifests/v1", "tags/list", f"referrers/{both.digest}"):  # other repositories are not listed
            assert (await client.get(f"/v2/elsewhere/app/{unlisted}")).status == 404
        await assert_listed(client, both, sbom, f"{both.digest.replace(':', '-')}.sig", tagged=not by_digest)
        assert connections == []


async def assert_listed(client: Client, subject: Manifest, sbom: Manifest, *tags: str, tagged: bool) -> None:
    """Check the tag list and the referrers list of the cached content."""
    reply = await client.get("/v2/r.test/team/app/tags/list")
    assert json.loads(reply.body) == {"name": "team/app", "tags": [*tags, *(["v1"] if tagged else [])]}
    assert reply.cache_status == "mirror; hit"
    referrers = f"/v2/r.test/team/app/referrers/{subject.digest}"
    for query, found in (("", [sbom]), ("?artifactType=x%2Fsbom", [sbom]), ("?artifactType=x%2Fsig", [])):
        reply = await client.get(referrers + query)
        assert (reply.status, reply.headers["Content-Type"]) == (200, OCI_INDEX), reply
        entries = [{**descriptor(one, one.media_type), "artifactType": "x/sbom"} for one in found]
        assert json.loads(reply.body) == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        assert reply.headers.get("OCI-Filters-Applied") == ("artifactType" if query else None)


def targets_of(upstream: Upstream, manifest: Manifest, *, by_digest: bool) -> dict[str, bytes]:
    """Return the targets that a client requests for this manifest, with their content."""
    blobs = {upstream.blob(blob): blob.content for blob in manifest.blobs}
    return {upstream.manifest(manifest if by_digest else "v1"): manifest.content, **blobs}
