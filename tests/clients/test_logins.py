"""Clients that log in to a mirror with users, and their behavior when an access rule denies an image."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.http.users import basic, htpasswd
from tests.real import images
from tests.real.containerd import containerd
from tests.real.docker import docker
from tests.real.mirror import Mirror, mirror
from tests.real.podman import podman
from tests.real.registry import Registry
from tests.real.skopeo import Skopeo

ALICE, BOB = ("alice", "open sesame"), ("bob", "correct:horse")
RULES = """
[[access]]
users = ["alice"]
allow = true
[[access]]
repositories = ["docker.io/library/*"]
allow = true
"""


@pytest.fixture
async def guarded(tmp_path: Path, upstream: Registry) -> AsyncIterator[Mirror]:
    """A mirror with two users that have different access rules."""
    (tmp_path / "users").write_text(htpasswd(dict([ALICE, BOB]), cost=10))
    configuration = tmp_path / "mirror.toml"
    configuration.write_text(f'[clients]\nusers_file = "{tmp_path}/users"\n{RULES}')
    upstreams = {"docker.io": upstream.url}
    async with mirror(tmp_path / "mirror", "--config", str(configuration), upstreams=upstreams) as started:
        yield started


def users(mirrored: Mirror) -> set[object]:
    """Return the users whose pulls were served."""
    return {event.get("user") for event in mirrored.events("pull_served")}


def header(mirrored: Mirror, user: str, password: str) -> str:
    """Return the lines of hosts.toml that send a login to the mirror."""
    return f'[host."{mirrored.url}".header]\nAuthorization = "{basic(user, password)["Authorization"]}"'


@pytest.mark.needs("busybox", "containerd", "docker", "docker-registry", "dockerd", root=True)
async def test_docker_logs_in_and_pulls(upstream: Registry, guarded: Mirror) -> None:
    """`docker login` rejects a wrong password; pulls without a login or of denied images fail with a clear message."""
    await upstream.push(images.runnable("for users"), "team/app", "1")
    await upstream.push(images.runnable("for all users"), "library/app", "1")
    ours, common = f"{guarded.host}/docker.io/team/app:1", f"{guarded.host}/docker.io/library/app:1"

    async with docker(guarded.url) as engine:
        with pytest.raises(AssertionError, match="no basic auth credentials"):
            await engine.pull(ours)
        with pytest.raises(AssertionError, match="401 Unauthorized"):
            await engine.login(guarded.host, ALICE[0], "wrong")

        await engine.login(guarded.host, *ALICE)
        await engine.pull(ours)

        assert await engine.run(ours) == "for users\n"
        assert users(guarded) == {"alice"}

        await engine.forget(ours)
        await engine.login(guarded.host, *BOB)
        await engine.pull(common)

        assert await engine.run(common) == "for all users\n"

        with pytest.raises(AssertionError, match=r"user 'bob' may not pull docker\.io/team/app"):
            await engine.pull(ours)


@pytest.mark.needs("busybox", "containerd", "docker", "docker-registry", "dockerd", root=True)
async def test_docker_sends_docker_hub_login_to_its_mirror(upstream: Registry, guarded: Mirror) -> None:
    """docker sends no other login to `registry-mirrors`: the mirror needs that user with that password."""
    await upstream.push(images.runnable("as on Docker Hub"), "library/hub", "1")

    async with docker(guarded.url) as engine:
        with pytest.raises(AssertionError):
            await engine.pull("hub:1")

        engine.logged_in_to_docker_hub(*ALICE)
        await engine.pull("hub:1")

        assert await engine.run("hub:1") == "as on Docker Hub\n"
    assert users(guarded) == {"alice"}


@pytest.mark.needs("busybox", "docker-registry", "podman", root=True)
async def test_podman_logs_in_and_pulls(upstream: Registry, guarded: Mirror) -> None:
    """Pulls by the mirror's name and through registries.conf; a denied pull fails with a clear message."""
    await upstream.push(images.runnable("for users"), "team/app", "1")
    name = "docker.io/team/app:1"

    with podman() as engine:
        engine.mirrored_by(guarded.host, "docker.io")
        with pytest.raises(AssertionError, match="unauthorized"):
            await engine.pull(f"{guarded.host}/{name}")
        with pytest.raises(AssertionError, match="invalid username/password"):
            await engine.login(guarded.host, ALICE[0], "wrong")

        await engine.login(guarded.host, *ALICE)
        for reference in (f"{guarded.host}/{name}", name):
            await engine.pull(reference)
            assert await engine.run(reference) == "for users\n"
            await engine.forget(reference)

        assert users(guarded) == {"alice"}

        await engine.login(guarded.host, *BOB)
        with pytest.raises(AssertionError, match=r"may not pull docker\.io/team/app"):
            await engine.pull(name)


@pytest.mark.needs("busybox", "docker-registry", "skopeo")
async def test_skopeo_sends_login(tmp_path: Path, upstream: Registry, guarded: Mirror) -> None:
    """skopeo sends --src-creds; without them, the error is `unauthorized`."""
    image = images.runnable("copied")
    await upstream.push(image, "team/app", "1")
    skopeo = Skopeo(tmp_path / "skopeo")
    name = f"{guarded.host}/docker.io/team/app:1"

    copy = await skopeo.copy(name, login=":".join(ALICE))

    assert (copy / "manifest.json").read_bytes() == image.manifest.content
    with pytest.raises(AssertionError, match="unauthorized"):
        await skopeo.copy(name)
    with pytest.raises(AssertionError, match=r"may not pull docker\.io/team/app"):
        await skopeo.copy(name, login=":".join(BOB))


@pytest.mark.needs("busybox", "containerd", "ctr", "docker-registry", root=True)
async def test_containerd_sends_login_of_hosts_toml_or_user_option(upstream: Registry, guarded: Mirror) -> None:
    """The login is a header in hosts.toml, for the mirror only, or `--user`."""
    image = images.runnable("for users")
    await upstream.push(image, "team/app", "1")
    name = "docker.io/team/app:1"

    async with containerd() as engine:
        engine.mirrored_by(guarded.url, "docker.io")
        with pytest.raises(AssertionError):
            await engine.pull(name)
        await engine.pull(name, "--user", ":".join(ALICE))
        assert await engine.run(name) == "for users\n"
        await engine.forget(name)

        engine.mirrored_by(guarded.url, "docker.io", more=header(guarded, *ALICE))
        await engine.pull(name)
        assert await engine.run(name) == "for users\n"
    assert users(guarded) == {"alice"}


@pytest.mark.needs("busybox", "containerd", "ctr", "docker-registry", root=True)
async def test_containerd_falls_back_to_registry_after_denial(upstream: Registry, guarded: Mirror) -> None:
    """After a 403 containerd continues with the registry itself, which may allow the pull."""
    image = images.runnable("from the registry itself")
    await upstream.push(image, "team/app", "1")

    async with containerd() as engine:
        engine.mirrored_by(guarded.url, "docker.io", more=header(guarded, *BOB), server=upstream.url)
        await engine.pull("docker.io/team/app:1")
        assert await engine.run("docker.io/team/app:1") == "from the registry itself\n"
    denied = [event for event in guarded.events("pull_failed") if event["code"] == "DENIED"]
    assert {event["user"] for event in denied} == {"bob"}
    assert not users(guarded)
