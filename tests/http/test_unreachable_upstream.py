"""An upstream that has become unreachable: content pulled before is served, with tags marked as stale."""

import asyncio
from pathlib import Path

import pytest

from tests.fake.content import image
from tests.fake.registry import Registry
from tests.http.client import Client, wait_until_cached
from tests.http.upstreams import IMPATIENT, Upstream, section
from tests.real.mirror import mirror as running_mirror

TAGS = '[tags]\nfresh_for = "0s"\n'


async def fill_cache(directory: Path, upstream: Upstream, *targets: str) -> None:
    """Pull these targets into the cache, and stop the mirror."""
    config = directory / "mirror.toml"
    config.write_text(IMPATIENT + TAGS + section(upstream.name, upstream.registry.url))
    async with running_mirror(directory, "--config", str(config)) as mirror, Client.of(mirror.url) as client:
        for target in targets:
            assert (await client.get(target)).status == 200
        await wait_until_cached(client, *targets[1:])


@pytest.mark.parametrize("address", ["http://nowhere.invalid", "https://127.0.0.1:{port}", "http://127.0.0.1:{closed}"])
async def test_cached_image_is_served_if_upstream_is_unreachable(tmp_path: Path, address: str) -> None:
    """No such host, no TLS, closed port: the tag is stale, other cached content is a hit, the rest is an error."""
    closing = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    closed = closing.sockets[0].getsockname()[1]
    closing.close()
    async with Registry.running() as registry:
        upstream = Upstream("r.test", registry)
        manifest = upstream.publish(image(1000, 2000), "v1")
        contents = {upstream.manifest("v1"): manifest.content, upstream.manifest(manifest): manifest.content}
        contents |= {upstream.blob(blob): blob.content for blob in manifest.blobs}
        await fill_cache(tmp_path, upstream, *contents)
        config = tmp_path / "mirror.toml"
        config.write_text(IMPATIENT + TAGS + section("r.test", address.format(port=registry.port, closed=closed)))
        async with running_mirror(tmp_path, "--config", str(config)) as mirror, Client.of(mirror.url) as client:
            for target, content in contents.items():
                reply = await client.get(target)
                assert (reply.status, reply.body) == (200, content), reply
                by_tag = target.endswith("/v1")
                assert reply.headers.get("Warning", "").startswith('299 - "') == by_tag, reply
                assert reply.cache_status.startswith("mirror; fwd=stale" if by_tag else "mirror; hit")
            assert (await client.get(upstream.manifest("v2"))).status in (503, 504)
