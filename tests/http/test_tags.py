"""Tags that are checked upstream on every request: revalidated by HEAD, followed when they move, dropped when gone."""

import asyncio

import pytest

from tests.fake.answers import Valve
from tests.fake.content import Manifest, image
from tests.fake.faults import Hold, Status, Without
from tests.http.client import Client, kept, settled
from tests.http.upstreams import CALM, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = CALM + '[tags]\nfresh_for = "0s"\nmissing_for = "2s"\n'


async def pulled(client: Client, upstream: Upstream, tag: str = "v1") -> Manifest:
    """An image that is in the cache, manifest and blobs; the registry's journal starts anew behind it."""
    manifest = upstream.publish(image(10), tag)
    assert (await client.get(upstream.manifest(tag))).body == manifest.content
    for blob in manifest.blobs:
        assert (await client.get(upstream.blob(blob))).body == blob.content
        await kept(client, upstream.blob(blob))
    upstream.registry.journal.entries.clear()
    return manifest


async def test_an_unchanged_tag_costs_one_head(client: Client, upstream: Upstream) -> None:
    """HEAD is free where GET counts against a limit."""
    manifest = await pulled(client, upstream)
    reply = await client.get(upstream.manifest("v1"))
    assert (reply.status, reply.body) == (200, manifest.content)
    assert "Warning" not in reply.headers
    assert [(seen.method, seen.path[-3:]) for seen in upstream.registry.journal.entries] == [("HEAD", "/v1")]


async def test_a_moved_tag_is_followed_and_the_old_digest_stays(client: Client, upstream: Upstream) -> None:
    """Clients may come late for what a tag pointed at: BuildKit fetches layers long after the manifest."""
    old = await pulled(client, upstream)
    new = upstream.publish(image(20), "v1")
    upstream.registry.repository(upstream.repository).manifests.pop(old.digest)
    for _ in range(2):
        reply = await client.get(upstream.manifest("v1"))
        assert (reply.headers["Docker-Content-Digest"], reply.body) == (new.digest, new.content)
    assert len(upstream.registry.of_manifest("*", "GET")) == 1
    for reference, content in ((old, old.content), (new, new.content)):
        assert (await client.get(upstream.manifest(reference))).body == content
    assert (await client.get(upstream.blob(old.blobs[1]))).body == old.blobs[1].content


async def test_a_head_sees_the_tag_move_too(client: Client, upstream: Upstream) -> None:
    """HEAD by tag is a question of its own and is answered with the new digest."""
    await pulled(client, upstream)
    new = upstream.publish(image(20), "v1")
    reply = await client.head(upstream.manifest("v1"))
    assert (reply.headers["Docker-Content-Digest"], reply.length) == (new.digest, new.size)


@pytest.mark.parametrize("fault", [Status(405), Status(403), Without("Docker-Content-Digest")])
@pytest.mark.parametrize("moved", [False, True])
async def test_get_where_head_does_not_do(client: Client, upstream: Upstream, fault: Status, moved: bool) -> None:
    """HEAD refused or without a digest: the check is made by GET."""
    manifest = await pulled(client, upstream)
    if moved:
        manifest = upstream.publish(image(20), "v1")
    upstream.registry.inject(fault, method="HEAD")
    reply = await client.get(upstream.manifest("v1"))
    assert (reply.status, reply.body) == (200, manifest.content)
    assert "Warning" not in reply.headers, reply
    assert len(upstream.registry.of_manifest("v1", "GET")) == 1


async def test_one_revalidation_in_flight_for_a_tag(client: Client, upstream: Upstream) -> None:
    """Twenty that ask while it is being checked wait for that one answer."""
    manifest = await pulled(client, upstream)
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


async def test_a_deleted_tag_is_gone_and_its_digest_is_not(client: Client, upstream: Upstream) -> None:
    """404 upstream is an answer, not a failure: the fact is dropped, and a later outage doesn't bring it back."""
    manifest = await pulled(client, upstream)
    upstream.registry.repository(upstream.repository).tags.clear()
    reply = await client.get(upstream.manifest("v1"))
    assert (reply.status, reply.error["code"]) == (404, "MANIFEST_UNKNOWN")
    await upstream.registry.go_down()
    assert (await client.get(upstream.manifest("v1"))).status in (404, 503)
    reply = await client.get(upstream.manifest(manifest))
    assert (reply.status, reply.body) == (200, manifest.content)


async def test_a_deleted_repository_still_gives_what_it_gave_by_digest(client: Client, upstream: Upstream) -> None:
    """Content by digest is served for ever, and upstream isn't even asked."""
    manifest = await pulled(client, upstream)
    upstream.registry.inject(Status(404))
    assert (await client.get(upstream.manifest(manifest))).body == manifest.content
    assert (await client.get(upstream.blob(manifest.blobs[1]))).body == manifest.blobs[1].content
    assert len(upstream.registry.journal) == 0


@pytest.mark.parametrize("kind", ["tag", "manifest digest", "blob"])
async def test_404_is_remembered_for_seconds_and_no_longer(client: Client, upstream: Upstream, kind: str) -> None:
    """Clients ask again and again for what isn't there; what is pushed then is soon found."""
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
    reply = await settled(lambda: client.get(target), lambda reply: reply.status != 404)
    assert (reply.status, reply.body) == (200, content)


async def test_a_404_of_one_name_is_not_anothers(client: Client, upstream: Upstream) -> None:
    """What is remembered is the tag in its repository."""
    manifest = upstream.publish(image(10), "v1")
    assert (await client.get(upstream.manifest("v2"))).status == 404
    assert (await client.get(upstream.manifest("v1"))).body == manifest.content


async def test_a_move_that_cannot_be_fetched_leaves_the_old_image(client: Client, upstream: Upstream) -> None:
    """HEAD tells of a new digest, GET fails: stale is better than nothing."""
    old = await pulled(client, upstream)
    upstream.publish(image(20), "v1")
    upstream.registry.inject(Status(500), "*/manifests/*", method="GET")
    reply = await client.get(upstream.manifest("v1"))
    assert (reply.status, reply.body) == (200, old.content), reply
    assert reply.headers["Warning"].startswith('299 - "')


async def test_revalidation_goes_on_after_a_failure(client: Client, upstream: Upstream) -> None:
    """A check that failed is made again by the next request, and ends the staleness."""
    manifest = await pulled(client, upstream)
    upstream.registry.inject(Status(500))
    assert (await client.get(upstream.manifest("v1"))).headers["Warning"]
    upstream.registry.heal()
    reply = await settled(lambda: client.get(upstream.manifest("v1")), lambda reply: "Warning" not in reply.headers)
    assert reply.body == manifest.content
    assert len(upstream.registry.of_manifest("v1", "HEAD")) >= 2
