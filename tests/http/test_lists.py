"""Tag lists and referrers: passed on from upstream, with Link headers that lead back to the mirror."""

import json
import re

import pytest

from tests.fake.content import OCI_INDEX, Blob, Manifest, artifact, image, index
from tests.fake.faults import Cut, Fault, Header, Reset, Status
from tests.http.client import Client, Reply, poll_until, wait_until_cached
from tests.http.upstreams import IMPATIENT, Upstream, by_ns

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = IMPATIENT + '[tags]\nfresh_for = "0s"\n'
TAGS = [f"v{number}" for number in range(7)]


def tags_target(upstream: Upstream) -> str:
    """Return the mirror's target for the tag list, with the upstream in the path."""
    return f"/v2/{upstream.name}/{upstream.repository}/tags/list"


def referrers_target(upstream: Upstream, subject: Manifest) -> str:
    """Return the mirror's target for a manifest's referrers, with the upstream in the path."""
    return f"/v2/{upstream.name}/{upstream.repository}/referrers/{subject.digest}"


def next_page(reply: Reply) -> str | None:
    """Return the target of Link, which must be a path of the mirror, as clients require; None at the end."""
    if "Link" not in reply.headers:
        return None
    link = re.fullmatch(r'<(/v2/[^>]+)>; ?rel="?next"?', reply.headers["Link"])
    assert link, reply.headers["Link"]
    return link[1]


async def pages(client: Client, target: str | None) -> list[Reply]:
    """Return all pages from this one on."""
    found: list[Reply] = []
    while target is not None:
        reply = await client.get(target)
        assert reply.status == 200, reply
        found.append(reply)
        assert len(found) < 20
        target = next_page(reply)
    return found


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("spelled", [str, by_ns])
async def test_tag_list_pagination(client: Client, upstream: Upstream, absolute: bool, spelled: type[str]) -> None:
    """Link leads through the mirror, with the upstream in the path or in ns as in the request."""
    upstream.publish(image(1), *TAGS)
    upstream.registry.absolute_links = absolute
    upstream.registry.page_size = 3
    target = spelled(tags_target(upstream))
    replies = await pages(client, target)
    assert [len(json.loads(reply.body)["tags"]) for reply in replies] == [3, 3, 1]
    assert [tag for reply in replies for tag in json.loads(reply.body)["tags"]] == TAGS
    for reply in replies[:-1]:
        link = next_page(reply)
        assert link is not None
        assert link.partition("?")[0] == target.partition("?")[0]
        assert ("ns=" in link) == ("ns=" in target)
    assert all("ns=" not in seen.target for seen in upstream.registry.journal.entries)
    assert len(upstream.registry.journal) == 3


@pytest.mark.parametrize("spelled", [str, by_ns])
async def test_opaque_page_token_is_passed_back(client: Client, upstream: Upstream, spelled: type[str]) -> None:
    """The registry defines the query of its next page (Quay: next_page); it is returned unchanged."""
    upstream.publish(image(1), *TAGS)
    upstream.registry.page_size, upstream.registry.opaque_pages = 3, True
    replies = await pages(client, spelled(tags_target(upstream)))
    assert [tag for reply in replies for tag in json.loads(reply.body)["tags"]] == TAGS


@pytest.mark.parametrize(
    ("query", "tags"), [("n=2", TAGS[:2]), ("n=3&last=v4", TAGS[5:]), ("n=0", []), ("last=v5", TAGS[6:])]
)
async def test_n_and_last_are_passed_upstream(client: Client, upstream: Upstream, query: str, tags: list[str]) -> None:
    """The registry does the paging."""
    upstream.publish(image(1), *TAGS)
    reply = await client.get(f"{tags_target(upstream)}?{query}")
    assert (reply.status, json.loads(reply.body)["tags"]) == (200, tags), reply
    assert reply.headers["Content-Type"] == "application/json"
    assert upstream.registry.journal.entries[-1].query == query


async def test_head_of_a_tag_list(client: Client, upstream: Upstream) -> None:
    """HEAD is answered like GET, without the body."""
    upstream.publish(image(1), *TAGS)
    reply = await client.head(tags_target(upstream))
    assert (reply.status, reply.body) == (200, b"")


async def test_tag_list_is_current(client: Client, upstream: Upstream) -> None:
    """A tag that was just pushed is listed."""
    upstream.publish(image(1), "v1")
    assert json.loads((await client.get(tags_target(upstream))).body)["tags"] == ["v1"]
    upstream.publish(image(1), "v2")
    assert json.loads((await client.get(tags_target(upstream))).body)["tags"] == ["v1", "v2"]


async def test_tag_list_of_a_missing_repository_is_404(client: Client, upstream: Upstream) -> None:
    """404, never an empty list."""
    reply = await client.get(tags_target(upstream))
    assert reply.status == 404
    assert reply.error["message"]


@pytest.mark.parametrize("fault", [Status(500), Reset(), Cut(at=3)])
async def test_failed_tag_list_is_an_error(client: Client, upstream: Upstream, fault: Status) -> None:
    """503 or 504 (502 for a truncated list): never a partial or empty list."""
    upstream.publish(image(1), *TAGS)
    upstream.registry.inject(fault)
    reply = await client.get(tags_target(upstream))
    assert reply.status in (502, 503, 504), reply
    assert reply.error["message"]


@pytest.mark.parametrize(
    "link", ["garbage", '<http://[::1>; rel="next"', '<>; rel="next"', '<http://evil.test/x?last=1>; rel="next"']
)
async def test_link_to_another_host_is_not_passed_on(client: Client, upstream: Upstream, link: str) -> None:
    """Clients are never sent to another host, whatever upstream's Link says."""
    upstream.publish(image(1), *TAGS)
    upstream.registry.inject(Header("Link", link))
    reply = await client.get(tags_target(upstream))
    assert reply.status == 200, reply
    assert "evil.test" not in reply.headers.get("Link", "")
    assert next_page(reply) is None or str(next_page(reply)).startswith(tags_target(upstream))


def publish_signed_image(upstream: Upstream) -> tuple[Manifest, list[str]]:
    """Publish an image with three signatures and an SBOM; return it and the signatures' digests."""
    subject = upstream.publish(image(1), "v1")
    upstream.publish(artifact("x/sbom", Blob.noise(3), subject))
    signatures = [upstream.publish(artifact("x/sig", Blob.noise(3), subject)) for _ in range(3)]
    return subject, [signature.digest for signature in signatures]


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("spelled", [str, by_ns])
async def test_referrers_pagination(client: Client, upstream: Upstream, absolute: bool, spelled: type[str]) -> None:
    """The media type is exactly the OCI index, without parameters; Link leads through the mirror."""
    subject, _ = publish_signed_image(upstream)
    upstream.registry.absolute_links = absolute
    upstream.registry.page_size = 2
    replies = await pages(client, spelled(referrers_target(upstream, subject)))
    assert [len(json.loads(reply.body)["manifests"]) for reply in replies] == [2, 2]
    assert {reply.headers["Content-Type"] for reply in replies} == {OCI_INDEX}


async def test_referrers_filter_is_passed_upstream(client: Client, upstream: Upstream) -> None:
    """The filter is sent upstream, and OCI-Filters-Applied is passed on, on every page."""
    subject, signatures = publish_signed_image(upstream)
    upstream.registry.page_size = 2
    target = f"{referrers_target(upstream, subject)}?artifactType=x%2Fsig"
    replies = await pages(client, target)
    found = [entry["digest"] for reply in replies for entry in json.loads(reply.body)["manifests"]]
    assert found == signatures
    assert {reply.headers["OCI-Filters-Applied"] for reply in replies} == {"artifactType"}


async def test_ignored_referrers_filter_is_not_claimed(client: Client, upstream: Upstream) -> None:
    """Clients filter for themselves if the response has no OCI-Filters-Applied."""
    subject, _ = publish_signed_image(upstream)
    upstream.registry.filters_referrers = False
    reply = await client.get(f"{referrers_target(upstream, subject)}?artifactType=x/sig")
    assert len(json.loads(reply.body)["manifests"]) == 4
    assert "OCI-Filters-Applied" not in reply.headers


async def test_missing_referrers_api_is_404(client: Client, upstream: Upstream) -> None:
    """404 with another code than NAME_UNKNOWN, so that clients fall back to the tag sha256-…, which works."""
    subject = upstream.publish(image(1), "v1")
    tag = f"sha256-{subject.digest.partition(':')[2]}"
    fallback = upstream.publish(image(2), tag)
    upstream.registry.has_referrers = False
    reply = await client.get(referrers_target(upstream, subject))
    assert reply.status == 404, reply
    assert reply.error["code"] != "NAME_UNKNOWN"
    assert (await client.get(upstream.manifest(tag))).body == fallback.content


async def test_referrers_during_an_outage_are_an_error(client: Client, upstream: Upstream) -> None:
    """An empty list would mean that nothing is signed."""
    subject, _ = publish_signed_image(upstream)
    await upstream.registry.go_down()
    reply = await client.get(referrers_target(upstream, subject))
    assert reply.status in (503, 504), reply


@pytest.mark.parametrize("fault", [None, Status(500), Status(429), Status(401), Reset()])
@pytest.mark.parametrize("spelled", [str, by_ns])
async def test_cached_lists_are_served_stale_during_an_outage(
    client: Client, upstream: Upstream, spelled: type[str], fault: Fault | None
) -> None:
    """Page by page as before, marked as stale; upstream's own lists again after the recovery."""
    upstream.registry.page_size = 2
    subject, _ = publish_signed_image(upstream)
    upstream.publish(subject, "v2", "v3")
    referrers = f"{referrers_target(upstream, subject)}?artifactType=x%2Fsig"
    before = [*await pages(client, spelled(tags_target(upstream))), *await pages(client, referrers)]
    if fault is None:
        await upstream.registry.go_down()
    else:
        upstream.registry.inject(fault)
    after = [*await pages(client, spelled(tags_target(upstream))), *await pages(client, referrers)]
    passing = {"Date", "Age", "Warning", "Cache-Status"}
    assert len(after) == len(before) == 4
    for one, other in zip(before, after, strict=True):
        assert one.body == other.body
        told, repeated = ({n: v for n, v in page.headers.items() if n not in passing} for page in (one, other))
        assert told == repeated
        assert "Warning" not in one.headers
        assert other.headers["Warning"].startswith('299 - "')
        assert int(other.headers["Age"]) >= 0
        assert other.cache_status.startswith("mirror; fwd=stale")
    upstream.registry.heal()
    await upstream.registry.come_back()
    upstream.publish(image(1), "v4")
    upstream.registry.page_size = 100
    reply = await poll_until(lambda: client.get(tags_target(upstream)), lambda reply: "Warning" not in reply.headers)
    assert json.loads(reply.body)["tags"] == ["v1", "v2", "v3", "v4"]


async def test_lists_are_derived_from_the_store_during_an_outage(client: Client, upstream: Upstream) -> None:
    """Marked as stale and paged; other repositories' content is not listed, and an empty result is an error."""
    subject, signatures = publish_signed_image(upstream)
    upstream.publish(subject, "v2", "v3")
    for reference in ("v1", "v2", "v3", *signatures[:2]):
        assert (await client.get(upstream.manifest(reference))).status == 200
    await upstream.registry.go_down()
    tags = await pages(client, f"{tags_target(upstream)}?n=2")
    assert [json.loads(reply.body)["tags"] for reply in tags] == [["v1", "v2"], ["v3"]]
    referrers = await pages(client, f"{referrers_target(upstream, subject)}?artifactType=x%2Fsig")
    entries = [entry for reply in referrers for entry in json.loads(reply.body)["manifests"]]
    assert [entry["digest"] for entry in entries] == sorted(signatures[:2])
    for reply in (*tags, *referrers):
        assert reply.cache_status.startswith("mirror; fwd=stale")
        assert "possibly incomplete" in reply.headers["Warning"]
        assert "Age" not in reply.headers
    for target in (tags_target(upstream), referrers_target(upstream, subject)):
        assert (await client.get(target.replace("/team/app/", "/team/other/"))).status in (503, 504)
        assert (await client.get(f"{target}?next_page=2")).status in (503, 504), "upstream's own pages are its own"


async def test_deleted_list_is_not_served_stale(client: Client, upstream: Upstream) -> None:
    """A 404 removes the cached list: a following outage is an error."""
    upstream.publish(image(1), "v1")
    assert (await client.get(tags_target(upstream))).status == 200
    upstream.registry.inject(Status(404), times=1)
    assert (await client.get(tags_target(upstream))).status == 404
    await upstream.registry.go_down()
    assert (await client.get(tags_target(upstream))).status in (503, 504)


async def test_referrers_fallback_tag_is_served_stale(client: Client, upstream: Upstream) -> None:
    """For registries without a referrers API, the index under sha256-… is a manifest like any other."""
    subject = upstream.publish(image(1), "v1")
    sbom = artifact("x/sbom", Blob.noise(30))
    tag = f"sha256-{subject.digest.partition(':')[2]}"
    attached = upstream.publish(index(sbom), tag)
    for target in (upstream.manifest(tag), upstream.manifest(sbom), *map(upstream.blob, sbom.blobs)):
        assert (await client.get(target)).status == 200
    await wait_until_cached(client, *map(upstream.blob, sbom.blobs))
    await upstream.registry.go_down()
    reply = await client.get(upstream.manifest(tag))
    assert (reply.status, reply.body) == (200, attached.content), reply
    assert (await client.get(upstream.manifest(sbom))).body == sbom.content
