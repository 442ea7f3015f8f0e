"""Tag revalidation with fresh_for = 0: by HEAD on every request; moved tags are followed, deleted ones dropped."""

import asyncio

import pytest

from tests.fake.answers import Valve
from tests.fake.content import Manifest, image
from tests.fake.faults import Hold, Status, Without
from tests.http.client import Client, poll_until, wait_until_cached
from tests.http.upstreams import CALM, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = CALM + '[tags]\nfresh_for = "0s"\nmissing_for = "2s"\n'


async def pull_whole(client: Client, upstream: Upstream, tag: str = "v1") -> Manifest:
    """Pull an image, wait until all of it is cached, and clear the registry's journal."""
    manifest = upstream.publish(image(10), tag)
    assert (await client.get(upstream.manifest(tag))).body == manifest.content
    for blob in manifest.blobs:
        assert (await client.get(upstream.blob(blob))).body == blob.content
        await wait_until_cached(client, upstream.blob(blob))
    upstream.registry.journal.entries.clear()
    return manifest


async def test_revalidation_of_an_unchanged_tag_costs_one_head(client: Client, upstream: Upstream) -> None:
    """HEAD is free where GET counts against a pull quota."""
    manifest = await pull_whole(client, upstream)
    reply = await client.get(upstream.manifest("v1"))
    assert (reply.status, reply.body) == (200, manifest.content)
    assert "Warning" not in reply.headers
    assert [(seen.method, seen.path[-3:]) for seen in upstream.registry.journal.entries] == [("HEAD", "/v1")]


async def test_moved_tag_is_followed_and_the_old_digest_stays(client: Client, upstream: Upstream) -> None:
    """Clients may request old layers late: BuildKit fetches them long after the manifest."""
    old = await pull_whole(client, upstream)
    new = upstream.publish(image(20), "v1")
    upstream.registry.repository(upstream.repository).manifests.pop(old.digest)
    for _ in range(2):
        reply = await client.get(upstream.manifest("v1"))
        assert (reply.headers["Docker-Content-Digest"], reply.body) == (new.digest, new.content)
    assert len(upstream.registry.of_manifest("*", "GET")) == 1
    for reference, content in ((old, old.content), (new, new.content)):
        assert (await client.get(upstream.manifest(reference))).body == content
    assert (await client.get(upstream.blob(old.blobs[1]))).body == old.blobs[1].content


async def test_head_revalidates_the_tag(client: Client, upstream: Upstream) -> None:
    """A HEAD by tag is sent upstream, and answered with the new digest."""
    await pull_whole(client, upstream)
    new = upstream.publish(image(20), "v1")
    reply = await client.head(upstream.manifest("v1"))
    assert (reply.headers["Docker-Content-Digest"], reply.length) == (new.digest, new.size)


@pytest.mark.parametrize("fault", [Status(405), Status(403), Without("Docker-Content-Digest")])
@pytest.mark.parametrize("moved", [False, True])
async def test_revalidation_by_get_where_head_fails(
    client: Client, upstream: Upstream, fault: Status, moved: bool
) -> None:
    """If HEAD is refused or has no digest, the tag is revalidated by GET."""
    manifest = await pull_whole(client, upstream)
    if moved:
        manifest = upstream.publish(image(20), "v1")
    upstream.registry.inject(fault, method="HEAD")
    reply = await client.get(upstream.manifest("v1"))
    assert (reply.status, reply.body) == (200, manifest.content)
    assert "Warning" not in reply.headers, reply
    assert len(upstream.registry.of_manifest("v1", "GET")) == 1


async def test_concurrent_revalidations_are_one_request(client: Client, upstream: Upstream) -> None:
    """Twenty clients wait for one revalidation."""
    manifest = await pull_whole(client, upstream)
    valve = Valve()
    upstream.registry.inject(Hold(valve), method="HEAD")
    asking = [asyncio.create_task(client.get(upstream.manifest("v1"))) for _ in range(20)]
    await valve.reached()
    done, _ = await asyncio.wait(asking, timeout=0.3)
    assert not done
    valve.open()
    for reply in await asyncio.gather(*asking):
        assert (reply.status, reply.body) == (200, manifest.content)
    assert [seen.method for seen in upstream.registry.journal.entries] == ["HEAD"]


async def test_deleted_tag_is_404_and_its_digest_is_not(client: Client, upstream: Upstream) -> None:
    """A 404 from upstream is a valid response: the fact is dropped, and an outage does not bring it back."""
    manifest = await pull_whole(client, upstream)
    upstream.registry.repository(upstream.repository).tags.clear()
    reply = await client.get(upstream.manifest("v1"))
    assert (reply.status, reply.error["code"]) == (404, "MANIFEST_UNKNOWN")
    await upstream.registry.go_down()
    assert (await client.get(upstream.manifest("v1"))).status in (404, 503)
    reply = await client.get(upstream.manifest(manifest))
    assert (reply.status, reply.body) == (200, manifest.content)


async def test_deleted_repository_is_served_by_digest(client: Client, upstream: Upstream) -> None:
    """Content by digest is served forever, without an upstream request."""
    manifest = await pull_whole(client, upstream)
    upstream.registry.inject(Status(404))
    assert (await client.get(upstream.manifest(manifest))).body == manifest.content
    assert (await client.get(upstream.blob(manifest.blobs[1]))).body == manifest.blobs[1].content
    assert len(upstream.registry.journal) == 0


@pytest.mark.parametrize("kind", ["tag", "manifest digest", "blob"])
async def test_404_is_cached_for_missing_for(client: Client, upstream: Upstream, kind: str) -> None:
    """Repeated requests for missing content reach upstream once; content pushed later is soon found."""
    manifest = image(10)
    blob = manifest.blobs[1]
    target, content = {
        "tag": (upstream.manifest("new"), manifest.content),
        "manifest digest": (upstream.manifest(manifest), manifest.content),
        "blob": (upstream.blob(blob), blob.content),
    }[kind]
    assert (await client.get(target)).status == 404
    asked = len(upstream.registry.journal)
    assert asked >= 1
    for method in ("GET", "HEAD", "GET"):
        assert (await client.ask(method, target)).status == 404
    assert len(upstream.registry.journal) == asked
    upstream.publish(manifest, "new")
    reply = await poll_until(lambda: client.get(target), lambda reply: reply.status != 404)
    assert (reply.status, reply.body) == (200, content)


async def test_404_is_cached_per_reference(client: Client, upstream: Upstream) -> None:
    """The key of the negative cache is the tag in its repository."""
    manifest = upstream.publish(image(10), "v1")
    assert (await client.get(upstream.manifest("v2"))).status == 404
    assert (await client.get(upstream.manifest("v1"))).body == manifest.content


async def test_moved_tag_is_stale_if_its_manifest_cannot_be_fetched(client: Client, upstream: Upstream) -> None:
    """HEAD gives a new digest, GET fails: the old image is served stale."""
    old = await pull_whole(client, upstream)
    upstream.publish(image(20), "v1")
    upstream.registry.inject(Status(500), "*/manifests/*", method="GET")
    reply = await client.get(upstream.manifest("v1"))
    assert (reply.status, reply.body) == (200, old.content), reply
    assert reply.headers["Warning"].startswith('299 - "')


async def test_revalidation_is_repeated_after_a_failure(client: Client, upstream: Upstream) -> None:
    """The next request revalidates again, and ends the staleness."""
    manifest = await pull_whole(client, upstream)
    upstream.registry.inject(Status(500))
    assert (await client.get(upstream.manifest("v1"))).headers["Warning"]
    upstream.registry.heal()
    reply = await poll_until(lambda: client.get(upstream.manifest("v1")), lambda reply: "Warning" not in reply.headers)
    assert reply.body == manifest.content
    assert len(upstream.registry.of_manifest("v1", "HEAD")) >= 2
