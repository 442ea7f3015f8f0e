"""Tags within fresh_for, which has its default of a minute: no upstream requests."""

import pytest

from tests.fake.content import image, index
from tests.http.client import Client, wait_until_cached
from tests.http.upstreams import Upstream, by_ns

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_fresh_tag_needs_no_upstream_request(client: Client, upstream: Upstream) -> None:
    """After a pull, GET and HEAD by tag and digest, by path and by ns, are served from the cache."""
    manifest = upstream.publish(image(10), "v1")
    first = await client.get(upstream.manifest("v1"))
    assert first.cache_status == "mirror; fwd=uri-miss; stored"
    asked = len(upstream.registry.journal)
    for target in (upstream.manifest("v1"), upstream.manifest(manifest), by_ns(upstream.manifest("v1"))):
        for method in ("GET", "HEAD", "GET"):
            reply = await client.ask(method, target)
            assert reply.status == 200
            assert reply.headers["Docker-Content-Digest"] == manifest.digest
            assert reply.cache_status == "mirror; hit"
            assert "Warning" not in reply.headers
    assert len(upstream.registry.journal) == asked


async def test_containerd_pull_costs_one_head_and_one_get(client: Client, upstream: Upstream) -> None:
    """After a HEAD by tag and a GET by digest, the tag is a hit."""
    manifest = upstream.publish(image(10), "v1")
    await client.head(upstream.manifest("v1"))
    await client.get(upstream.manifest(manifest))
    assert (await client.get(upstream.manifest("v1"))).body == manifest.content
    assert [seen.method for seen in upstream.registry.journal.entries] == ["HEAD", "GET"]


async def test_fresh_tag_is_not_revalidated(client: Client, upstream: Upstream) -> None:
    """A moved tag is not noticed within fresh_for."""
    old = upstream.publish(image(10), "v1")
    await client.get(upstream.manifest("v1"))
    upstream.publish(image(20), "v1")
    assert (await client.get(upstream.manifest("v1"))).body == old.content


async def test_fresh_tag_during_an_outage_is_not_stale(client: Client, upstream: Upstream) -> None:
    """The response is not marked as stale, since no upstream request was due."""
    manifest = upstream.publish(image(10), "v1")
    await client.get(upstream.manifest("v1"))
    await upstream.registry.go_down()
    reply = await client.get(upstream.manifest("v1"))
    assert (reply.status, reply.body) == (200, manifest.content)
    assert "Warning" not in reply.headers


async def test_freshness_is_per_tag(client: Client, upstream: Upstream) -> None:
    """Another tag of the same image is requested upstream, but not its manifest again."""
    manifest = upstream.publish(image(10), "v1", "v2")
    await client.get(upstream.manifest("v1"))
    reply = await client.get(upstream.manifest("v2"))
    assert reply.body == manifest.content
    assert upstream.registry.of_manifest("v2")
    assert len(upstream.registry.of_manifest("*", "GET")) <= 2


async def test_index_fetches_no_platform_manifests(client: Client, upstream: Upstream) -> None:
    """Only the requested platform's manifest is fetched; the index keeps its digest."""
    wanted, other = image(10), image(20)
    both = upstream.publish(index(wanted, other), "v1")
    assert (await client.get(upstream.manifest("v1"))).body == both.content
    assert (await client.get(upstream.manifest(wanted))).body == wanted.content
    for blob in wanted.blobs:
        assert (await client.get(upstream.blob(blob))).body == blob.content
    assert not upstream.registry.of_manifest(other.digest)
    assert not upstream.registry.of_blob(other.blobs[1], method=None)


async def test_cached_index_is_served_by_digest_during_an_outage(client: Client, upstream: Upstream) -> None:
    """The index as pushed, the pulled platform and its layers: nothing converted, nothing missing."""
    ours, theirs = image(1000), image(2000)
    both = upstream.publish(index(ours, theirs), "v1")
    targets = [(upstream.manifest(both), both.content), (upstream.manifest(ours), ours.content)]
    targets += [(upstream.blob(blob), blob.content) for blob in ours.blobs]
    for target, content in targets:
        assert (await client.get(target)).body == content
        await wait_until_cached(client, target)
    await upstream.registry.go_down()
    for target, content in targets:
        reply = await client.get(target)
        assert (reply.status, reply.body) == (200, content), reply
    reply = await client.get(upstream.manifest(both))
    assert (reply.headers["Docker-Content-Digest"], reply.headers["Content-Type"]) == (both.digest, both.media_type)
