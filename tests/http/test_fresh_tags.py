"""Tags within their time of freshness, which is the default of a minute here: upstream is left alone."""

import pytest

from tests.fake.content import image, index
from tests.http.client import Client, kept
from tests.http.upstreams import Upstream, by_ns

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_fresh_tag_asks_nothing_upstream(client: Client, upstream: Upstream) -> None:
    """Once pulled, GET and HEAD, by tag and by digest, by path and by ns are answered from the cache."""
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


async def test_containerds_pull_costs_a_head_and_a_get(client: Client, upstream: Upstream) -> None:
    """HEAD by tag, GET by digest; then the tag is known and its manifest is here."""
    manifest = upstream.publish(image(10), "v1")
    await client.head(upstream.manifest("v1"))
    await client.get(upstream.manifest(manifest))
    assert (await client.get(upstream.manifest("v1"))).body == manifest.content
    assert [seen.method for seen in upstream.registry.journal.entries] == ["HEAD", "GET"]


async def test_a_move_is_noticed_only_later(client: Client, upstream: Upstream) -> None:
    """Within fresh_for the tag is what it was."""
    old = upstream.publish(image(10), "v1")
    await client.get(upstream.manifest("v1"))
    upstream.publish(image(20), "v1")
    assert (await client.get(upstream.manifest("v1"))).body == old.content


async def test_a_fresh_tag_does_not_notice_an_outage(client: Client, upstream: Upstream) -> None:
    """It is no stale answer: nobody had to be asked."""
    manifest = upstream.publish(image(10), "v1")
    await client.get(upstream.manifest("v1"))
    await upstream.registry.go_down()
    reply = await client.get(upstream.manifest("v1"))
    assert (reply.status, reply.body) == (200, manifest.content)
    assert "Warning" not in reply.headers


async def test_tags_are_known_one_by_one(client: Client, upstream: Upstream) -> None:
    """Another tag of the same image is asked upstream, and its manifest isn't fetched again."""
    manifest = upstream.publish(image(10), "v1", "v2")
    await client.get(upstream.manifest("v1"))
    reply = await client.get(upstream.manifest("v2"))
    assert reply.body == manifest.content
    assert upstream.registry.of_manifest("v2")
    assert len(upstream.registry.of_manifest("*", "GET")) <= 2


async def test_only_the_platform_that_is_asked_for_is_fetched(client: Client, upstream: Upstream) -> None:
    """An index brings none of its images with it, and keeps its digest."""
    wanted, other = image(10), image(20)
    both = upstream.publish(index(wanted, other), "v1")
    assert (await client.get(upstream.manifest("v1"))).body == both.content
    assert (await client.get(upstream.manifest(wanted))).body == wanted.content
    for blob in wanted.blobs:
        assert (await client.get(upstream.blob(blob))).body == blob.content
    assert not upstream.registry.of_manifest(other.digest)
    assert not upstream.registry.of_blob(other.blobs[1], method=None)


async def test_an_index_that_was_pulled_is_pulled_by_digest_without_upstream(
    client: Client, upstream: Upstream
) -> None:
    """The index as it was pushed, the platform that was pulled, and its layers: nothing converted, nothing missing."""
    ours, theirs = image(1000), image(2000)
    both = upstream.publish(index(ours, theirs), "v1")
    targets = [(upstream.manifest(both), both.content), (upstream.manifest(ours), ours.content)]
    targets += [(upstream.blob(blob), blob.content) for blob in ours.blobs]
    for target, content in targets:
        assert (await client.get(target)).body == content
        await kept(client, target)
    await upstream.registry.go_down()
    for target, content in targets:
        reply = await client.get(target)
        assert (reply.status, reply.body) == (200, content), reply
    reply = await client.get(upstream.manifest(both))
    assert (reply.headers["Docker-Content-Digest"], reply.headers["Content-Type"]) == (both.digest, both.media_type)
