"""Resolution of request names to upstream and repository, and refusal of invalid names."""

import re
from pathlib import Path

import pytest

from tests.fake.content import Blob, image, noise
from tests.fake.registry import Registry
from tests.http.client import Client
from tests.http.upstreams import Upstream, by_ns
from tests.real.mirror import Mirror
from tests.real.mirror import mirror as running_mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

ZEROS = "sha256:" + "0" * 64
PROPER = re.compile(r"/v2/[a-z0-9]+([._/-]+[a-z0-9]+)*/(manifests|blobs)/[A-Za-z0-9_][A-Za-z0-9._:-]*")


def unused_name() -> str:
    """Return a repository name that no other test uses."""
    return f"n{noise(6).hex()}"


async def test_all_spellings_of_an_image_share_a_cache_entry(client: Client, hub: Registry) -> None:
    """Docker Hub's names, in the path or in ns, and an optional library/ lead to one upstream request."""
    name = unused_name()
    manifest = image(100)
    hub.publish(f"library/{name}", manifest, "v1")
    spellings = [
        f"{name}/manifests/v1",
        f"library/{name}/manifests/v1",
        f"docker.io/{name}/manifests/v1",
        f"docker.io/library/{name}/manifests/v1",
        f"index.docker.io/{name}/manifests/v1",
        f"registry-1.docker.io/library/{name}/manifests/v1",
        f"library/{name}/manifests/v1?ns=docker.io",
        f"{name}/manifests/v1?ns=index.docker.io",
        f"{name}/manifests/v1?ns=Docker.IO",
        f"library/{name}/manifests/v1?ns=registry-1.docker.io",
        f"docker.io/library/{name}/manifests/v1?ns=docker.io",
    ]
    for spelling in spellings:
        reply = await client.get(f"/v2/{spelling}")
        assert (reply.status, reply.body) == (200, manifest.content), (spelling, str(reply))
    seen = hub.journal.of(path=f"*{name}*")
    assert len([entry for entry in seen if entry.method == "GET"]) == 1
    assert {entry.path for entry in seen} == {f"/v2/library/{name}/manifests/{seen[0].path.rpartition('/')[2]}"}


async def test_library_prefix_applies_to_docker_io_only(client: Client, upstream: Upstream, hub: Registry) -> None:
    """Other registries have repositories of one component."""
    manifest = image(10)
    name = unused_name()
    upstream.registry.publish(name, manifest, "v1")
    for target in (f"/v2/{upstream.name}/{name}/manifests/v1", f"/v2/{name}/manifests/v1?ns={upstream.name}"):
        assert (await client.get(target)).body == manifest.content
    assert not hub.journal.of(path=f"*{name}*")


async def test_ns_is_not_sent_upstream(client: Client, upstream: Upstream) -> None:
    """ns selects the upstream; the registry itself does not receive it."""
    manifest = upstream.publish(image(10), "v1")
    assert (await client.get(by_ns(upstream.manifest("v1")))).body == manifest.content
    assert all("ns=" not in seen.target for seen in upstream.registry.journal.entries)


async def test_registry_in_the_path_takes_precedence_over_ns(client: Client, upstream: Upstream) -> None:
    """A configured first path component is stripped whether ns agrees or not: the operator configured the path."""
    manifest = upstream.publish(image(10), "v1")
    for ns in (upstream.name, "docker.io"):
        reply = await client.get(f"{upstream.manifest(manifest)}?ns={ns}")
        assert (reply.status, reply.body) == (200, manifest.content), reply


async def test_same_name_in_two_registries(client: Client, upstream: Upstream, hub: Registry) -> None:
    """team/app:v1 of one registry is not that of the other, and neither serves the other's digests."""
    here, there = image(10), image(20)
    name = f"{unused_name()}/app"
    upstream.registry.publish(name, here, "v1")
    hub.publish(name, there, "v1")
    for _ in range(2):
        assert (await client.get(f"/v2/{upstream.name}/{name}/manifests/v1")).body == here.content
        assert (await client.get(f"/v2/{name}/manifests/v1")).body == there.content
        assert (await client.get(f"/v2/{name}/manifests/v1?ns={upstream.name}")).body == here.content
    assert (await client.get(f"/v2/{name}/manifests/{here.digest}")).status == 404


@pytest.mark.parametrize(
    "name",
    [
        "a/manifests/b",
        "a/blobs/b",
        "manifests/manifests",
        "blobs/sha256",
        "v2/x",
        "tags/list",
        "a/referrers/b",
        "a/b/c/d/e/f/g/h/i/j",
        "a.b/c-d/e_f/g__h/i--j",
        "0",
        "x" * 200,
    ],
)
async def test_unusual_valid_names(client: Client, upstream: Upstream, name: str) -> None:
    """Route words may be components of a name, so names are parsed from the right."""
    manifest = image(30)
    upstream.registry.publish(name, manifest, "v1")
    prefix = f"/v2/{upstream.name}/{name}"
    assert (await client.get(f"{prefix}/manifests/v1")).body == manifest.content
    assert (await client.get(f"{prefix}/manifests/{manifest.digest}")).body == manifest.content
    assert (await client.get(f"{prefix}/blobs/{manifest.blobs[1].digest}")).body == manifest.blobs[1].content


@pytest.mark.parametrize("tag", ["v1.0-rc_2", "_x", "A" * 128, "manifests", "sha256-" + "a" * 64])
async def test_valid_tags(client: Client, upstream: Upstream, tag: str) -> None:
    """Up to 128 characters."""
    manifest = upstream.publish(image(30), tag)
    assert (await client.get(upstream.manifest(tag))).body == manifest.content


@pytest.mark.parametrize(
    "rest",
    [
        "team/../secret/manifests/v1",
        "../../etc/passwd/manifests/v1",
        "team/%2e%2e/secret/manifests/v1",
        "team%2F..%2F..%2Fsecret/manifests/v1",
        "team//app/manifests/v1",
        "/team/app/manifests/v1",
        "team/app//manifests/v1",
        "team/app/manifests//v1",
        "team/./app/manifests/v1",
        "team/%00/manifests/v1",
        "team/app%00/manifests/v1",
        "team/app/manifests/v1%00",
        "team/app/manifests/",
        "team/app/blobs/",
        "team/app/manifests/..",
        "team/app/manifests/%2e%2e%2fblobs",
        "team/app/manifests/v1%2F..%2Fv2",
        "team/app/manifests/v1%3Fx=y",
        "team/app/manifests/v1%23x",
        "team/app/manifests/v1%0d%0aX-Evil:%201",
        "team/app/manifests/-v1",
        "team/app/manifests/.v1",
        "team/app/manifests/" + "v" * 129,
        "Team/App/manifests/v1",
        "team/app_/manifests/v1",
        "team/-app/manifests/v1",
        "team/app/manifests/caf%C3%A9",
        "team/%E2%80%AEppa/manifests/v1",
        "user@host/app/manifests/v1",
        "x" * 300 + "/manifests/v1",
        "team/app/blobs/sha256:" + "A" * 64,
        "team/app/blobs/SHA256:" + "a" * 64,
        "team/app/blobs/sha256:" + "a" * 63,
        "team/app/blobs/sha256:" + "a" * 65,
        "team/app/blobs/sha256:" + "g" * 64,
        "team/app/blobs/sha512:" + "a" * 64,
        "team/app/blobs/md5:" + "a" * 32,
        "team/app/blobs/sha256:../../../../etc/passwd",
        "team/app/blobs/sha256:..%2F..%2Fledger",
        "team/app/blobs/v1",
        "team/app/manifests/sha256:" + "A" * 64,
        "team/app/manifests/md5:" + "a" * 32,
        "team/app/referrers/v1",
    ],
)
async def test_invalid_names_are_refused(client: Client, hub: Registry, rest: str) -> None:
    """400 or 404 as JSON; upstream requests contain valid names only."""
    reply = await client.get(f"/v2/{rest}")
    assert reply.status in (400, 404), reply
    assert reply.error["message"]
    assert all(PROPER.fullmatch(seen.target) and ".." not in seen.target for seen in hub.journal.entries)


@pytest.mark.parametrize(
    "target",
    [
        b"/v2/team/\x00/manifests/v1",
        b"/v2/team/\xff\xfe/manifests/v1",
        b"/v2/" + b"x" * 10_000 + b"/manifests/v1",
        b"/v2/team/app/manifests/v1?ns=" + b"x" * 10_000,
        b"v2/team/app/manifests/v1",
        b"http://169.254.169.254/v2/team/app/manifests/v1",
        b"//169.254.169.254/v2/team/app/manifests/v1",
        b"/v2/team/app/manifests/v1 HTTP/1.1\r\nHost: evil\r\nX-Junk: ",
    ],
)
async def test_malformed_targets_are_refused(client: Client, hub: Registry, target: bytes) -> None:
    """No success and no crash, and the mirror continues to serve."""
    came = await client.raw(b"GET " + target + b" HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n")
    assert came == b"" or re.match(rb"HTTP/1\.[01] 4\d\d ", came), came
    assert (await client.get("/v2/")).status == 200
    assert all(PROPER.fullmatch(seen.target) for seen in hub.journal.entries)


@pytest.mark.parametrize(
    "ns",
    [
        "unknown.example",
        "169.254.169.254",
        "user@docker.io",
        "docker.io/evil",
        "docker.io%2Fevil",
        "http://docker.io",
        "docker.io%00",
        "docker.io%0d%0a",
        "..",
        "docker.io&ns=quay.io",
        "docker.io&ns=docker.io%40evil",
    ],
)
async def test_unknown_ns_is_refused(client: Client, hub: Registry, ns: str) -> None:
    """400 or 404, not the default upstream's image under another registry's name."""
    name = f"{unused_name()}/app"
    hub.publish(name, image(10), "v1")
    reply = await client.get(f"/v2/{name}/manifests/v1?ns={ns}")
    assert reply.status in (400, 404), reply
    assert reply.error["message"]
    assert not hub.journal.of(path=f"*{name}*")


async def test_ns_is_never_connected_to(client: Client) -> None:
    """A registry that listens but is not configured gets no connection."""
    async with Registry.running() as stranger:
        stranger.publish("team/app", image(10), "v1")
        for ns in (f"127.0.0.1:{stranger.port}", f"127.0.0.1%3A{stranger.port}"):
            assert (await client.get(f"/v2/team/app/manifests/v1?ns={ns}")).status in (400, 404)
        reply = await client.get(f"/v2/127.0.0.1:{stranger.port}/team/app/manifests/v1")
        assert reply.status in (400, 404)
        assert len(stranger.journal) == 0


async def test_ns_with_a_port(tmp_path: Path) -> None:
    """The name of a registry is host and port as in image names, escaped in the query or not."""
    manifest = image(10)
    async with Registry.running() as registry:
        registry.publish("team/app", manifest, "v1")
        async with (
            running_mirror(tmp_path, upstreams={"registry.test:5000": registry.url}) as mirror,
            Client.of(mirror.url) as client,
        ):
            for target in (
                "team/app/manifests/v1?ns=registry.test%3A5000",
                "team/app/manifests/v1?ns=registry.test:5000",
                "registry.test:5000/team/app/manifests/v1",
            ):
                assert (await client.get(f"/v2/{target}")).body == manifest.content
            assert (await client.get("/v2/team/app/manifests/v1?ns=registry.test%3A5001")).status == 404


async def test_no_file_is_written_outside_the_layout(mirror: Mirror, client: Client, upstream: Upstream) -> None:
    """After all these names the cache directory contains only the OCI layout and the mirror's own files."""
    upstream.publish_blob(blob := Blob.noise(10))
    assert (await client.get(upstream.blob(blob))).status == 200
    cache = mirror.program.log.parent / "cache"
    own = {"ingest", "ledger", "control.sock"}
    assert {path.name for path in cache.iterdir()} <= {"oci-layout", "index.json", "blobs", *own}
    for path in (cache / "blobs").rglob("*"):
        relative = path.relative_to(cache / "blobs").as_posix()
        assert re.fullmatch("sha256(/[0-9a-f]{64})?|sha512(/[0-9a-f]{128})?", relative), relative
