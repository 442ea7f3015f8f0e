"""The same image spelled otherwise, and other images spelled the same."""

import json

import pytest

from tests.fake.content import image, index, noise
from tests.fake.registry import Registry
from tests.http.client import Client
from tests.http.upstreams import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")


def fresh_name() -> str:
    """A repository name that no other test uses."""
    return f"n{noise(6).hex()}"


async def test_every_clients_spelling_of_an_image_of_docker_hub(client: Client, hub: Registry) -> None:
    """As dockerd, containerd, BuildKit, podman, crane and containerd with a path write it: one image, fetched once."""
    name = fresh_name()
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


async def test_before_v2_only_an_upstream_that_is_configured(client: Client, upstream: Upstream, hub: Registry) -> None:
    """containerd's hosts.toml may put a path there: it names the upstream, or it is 404, never the default one."""
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
async def test_a_link_is_spelled_as_the_client_spelled(
    client: Client, upstream: Upstream, spelled: str, link: str
) -> None:
    """Relative, with the registry where the client had it: following it is the second page, and the last."""
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
async def test_a_name_has_at_most_255_characters(client: Client, upstream: Upstream, length: int) -> None:
    """The longest is a name like any other; one more is 400, and isn't asked upstream."""
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


async def test_host_names_the_mirror_and_no_upstream(client: Client, upstream: Upstream, hub: Registry) -> None:
    """Whatever a client writes into Host, the path and ns decide: nobody is dialled for it."""
    name = f"{fresh_name()}/app"
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
async def test_a_manifest_is_not_served_under_a_repository_that_lacks_it(
    client: Client, upstream: Upstream, hub: Registry, by_tag: bool
) -> None:
    """A cached image's digest asked for elsewhere: its own upstream decides, for an index and for what it names."""
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
