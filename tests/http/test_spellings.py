"""Spellings: one image in several spellings, and different images in the same spelling."""

import json

import pytest

from tests.fake.content import image, index, noise
from tests.fake.registry import Registry
from tests.http.client import Client
from tests.http.upstreams import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")


def unused_name() -> str:
    """Return a repository name that no other test uses."""
    return f"n{noise(6).hex()}"


async def test_docker_hub_image_in_every_clients_spelling(client: Client, hub: Registry) -> None:
    """dockerd, containerd with and without a path, BuildKit, podman and crane cause one fetch."""
    name = unused_name()
    manifest = image(100)
    hub.publish(f"library/{name}", manifest, "v1")
    for spelling in (
        f"/v2/library/{name}/manifests/v1",
        f"/v2/library/{name}/manifests/v1?ns=docker.io",
        f"/v2/docker.io/library/{name}/manifests/v1?ns=docker.io",
        f"/v2/docker.io/library/{name}/manifests/v1",
        f"/v2/docker.io/{name}/manifests/v1",
        f"/v2/{name}/manifests/v1",
        f"/docker.io/v2/library/{name}/manifests/v1",
        f"/docker.io/v2/library/{name}/manifests/v1?ns=docker.io",
        f"/docker.io/v2/{name}/manifests/v1",
    ):
        reply = await client.get(spelling)
        assert (reply.status, reply.body) == (200, manifest.content), (spelling, str(reply))
    assert len(hub.journal.of("GET", f"*{name}*")) == 1
    assert {entry.path.rpartition("/")[0] for entry in hub.journal.of(path=f"*{name}*")} == {
        f"/v2/library/{name}/manifests"
    }


async def test_path_before_v2_must_name_a_configured_upstream(
    client: Client, upstream: Upstream, hub: Registry
) -> None:
    """containerd's hosts.toml may contain a path: it names an upstream, or gets 404, never the default upstream."""
    manifest = upstream.publish(image(10), "v1")
    found = await client.get(f"/{upstream.name}/v2/team/app/manifests/v1")
    assert (found.status, found.body) == (200, manifest.content), found
    hub.publish("team/app", image(20), "v1")
    asked = len(hub.journal)
    for prefix in ("/dockerhub", "/unknown.example", "/a/b", f"/a/{upstream.name}"):
        reply = await client.get(f"{prefix}/v2/team/app/manifests/v1")
        assert (reply.status, reply.error["code"]) == (404, "NAME_UNKNOWN"), reply
    assert len(hub.journal) == asked


@pytest.mark.parametrize(
    ("spelled", "link"),
    [
        ("/v2/{ns}/team/app/tags/list?n=2", "/v2/{ns}/team/app/tags/list?"),
        ("/v2/team/app/tags/list?n=2&ns={ns}", "/v2/team/app/tags/list?"),
        ("/v2/{ns}/team/app/tags/list?ns={ns}&n=2", "/v2/{ns}/team/app/tags/list?"),
        ("/{ns}/v2/team/app/tags/list?n=2", "/{ns}/v2/team/app/tags/list?"),
    ],
)
async def test_link_is_spelled_like_the_request(client: Client, upstream: Upstream, spelled: str, link: str) -> None:
    """Link is relative, with the registry where the client put it, and leads to the second and last page."""
    upstream.publish(image(1), "a", "b", "c")
    first = await client.get(spelled.format(ns=upstream.name))
    assert json.loads(first.body)["tags"] == ["a", "b"]
    target = first.headers["Link"].partition("<")[2].partition(">")[0]
    assert target.startswith(link.format(ns=upstream.name)), first.headers["Link"]
    assert ("ns=" in target) == ("ns=" in spelled)
    second = await client.get(target)
    assert json.loads(second.body)["tags"] == ["c"]
    assert "Link" not in second.headers


@pytest.mark.parametrize("length", [255, 256])
async def test_name_length_is_limited_to_255(client: Client, upstream: Upstream, length: int) -> None:
    """A name of 255 characters is valid; with one more it is 400, without an upstream request."""
    name = "/".join(["c" * 50] * 5)
    name += "c" * (length - len(name))
    manifest = image(10)
    upstream.registry.publish(name, manifest, "v1")
    reply = await client.get(f"/v2/{name}/manifests/v1?ns={upstream.name}")
    if length == 255:
        assert (reply.status, reply.body) == (200, manifest.content), reply
    else:
        assert (reply.status, reply.error["code"]) == (400, "NAME_INVALID")
        assert len(upstream.registry.journal) == 0


async def test_host_header_does_not_select_an_upstream(client: Client, upstream: Upstream, hub: Registry) -> None:
    """Only path and ns select the upstream; the host is never connected to."""
    name = f"{unused_name()}/app"
    ours, theirs = image(10), image(20)
    hub.publish(name, ours, "v1")
    upstream.registry.publish(name, theirs, "v1")
    async with Registry.running() as stranger:
        for host in (upstream.name, "quay.io", f"127.0.0.1:{stranger.port}", "169.254.169.254"):
            reply = await client.get(f"/v2/{name}/manifests/v1", {"Host": host})
            assert reply.body == ours.content
            reply = await client.get(f"/v2/{name}/manifests/v1?ns={upstream.name}", {"Host": host})
            assert reply.body == theirs.content
        assert len(stranger.journal) == 0


@pytest.mark.parametrize("by_tag", [True, False])
async def test_cached_manifest_is_404_in_a_repository_without_it(
    client: Client, upstream: Upstream, hub: Registry, by_tag: bool
) -> None:
    """The requested repository's upstream decides, for an index and for its platforms."""
    child = image(100)
    both = upstream.publish(index(child), "v1")
    upstream.registry.repository("other/app")
    assert (await client.get(upstream.manifest("v1" if by_tag else both))).status == 200
    assert (await client.get(upstream.manifest(child))).status == 200
    for digest in (both.digest, child.digest):
        for target in (f"/v2/{upstream.name}/other/app/manifests/{digest}", f"/v2/other/app/manifests/{digest}"):
            for method in ("GET", "HEAD"):
                assert (await client.ask(method, target)).status == 404
    upstream.registry.publish("public/app", child)
    reply = await client.get(f"/v2/{upstream.name}/public/app/manifests/{child.digest}")
    assert (reply.status, reply.body) == (200, child.content)
    assert (await client.get(f"/v2/{upstream.name}/public/app/manifests/{both.digest}")).status == 404
