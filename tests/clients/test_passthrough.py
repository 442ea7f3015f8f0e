"""Clients with logins of their own for an upstream that decides itself who may pull (client_auth = "passthrough")."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.real import images
from tests.real.containerd import containerd
from tests.real.docker import docker
from tests.real.mirror import Mirror, mirror
from tests.real.podman import podman
from tests.real.registry import Htpasswd, Registry, docker_registry
from tests.real.skopeo import Skopeo

OWN = (Htpasswd.user, Htpasswd.password)


@pytest.fixture
async def locked(tmp_path: Path) -> AsyncIterator[Registry]:
    """A docker-registry that lets in one user only, with an image in it."""
    async with docker_registry(tmp_path / "locked", Htpasswd(tmp_path)) as registry:
        await registry.push(images.runnable("private"), "team/app", "1")
        yield registry


@pytest.fixture
async def passing(tmp_path: Path, locked: Registry) -> AsyncIterator[Mirror]:
    """A mirror that has no login of its own for it."""
    configuration = tmp_path / "mirror.toml"
    configuration.write_text(f'[upstreams."docker.io"]\nurl = "{locked.url}"\nclient_auth = "passthrough"\n')
    async with mirror(tmp_path / "mirror", "--config", str(configuration)) as started:
        yield started


def assert_secret(mirrored: Mirror) -> None:
    """The password is nowhere in the log; who pulled is."""
    assert Htpasswd.password not in mirrored.program.said()
    assert {event.get("user") for event in mirrored.events("pull_served")} == {Htpasswd.user}


@pytest.mark.needs("busybox", "containerd", "docker", "docker-registry", "dockerd", root=True)
async def test_docker_logs_in_with_the_login_for_the_upstream(locked: Registry, passing: Mirror) -> None:
    """`docker login` tells wrong from right; `registry-mirrors` shows Docker Hub's; without one nothing is served."""
    name = f"{passing.host}/docker.io/team/app:1"
    async with docker(passing.url) as engine:
        with pytest.raises(AssertionError, match="unauthorized"):
            await engine.login(passing.host, OWN[0], "wrong")
        await engine.login(passing.host, *OWN)
        await engine.pull(name)
        assert await engine.run(name) == "private\n"
        await engine.forget(name)
        engine.logged_in_to_docker_hub(*OWN)
        await engine.pull("team/app:1")
        assert await engine.run("team/app:1") == "private\n"
    async with docker(passing.url) as stranger:
        for reference in (name, "team/app:1"):
            with pytest.raises(AssertionError):
                await stranger.pull(reference)
    assert_secret(passing)


@pytest.mark.needs("busybox", "docker-registry", "podman", root=True)
async def test_podman_logs_in_with_the_login_for_the_upstream(locked: Registry, passing: Mirror) -> None:
    """By the mirror's name, with the upstream in the path, and through registries.conf."""
    name = "docker.io/team/app:1"
    with podman() as engine:
        engine.mirrored_by(passing.host, "docker.io")
        with pytest.raises(AssertionError, match="invalid username/password"):
            await engine.login(passing.host, OWN[0], "wrong")
        await engine.login(passing.host, *OWN)
        for reference in (f"{passing.host}/{name}", name):
            await engine.pull(reference)
            assert await engine.run(reference) == "private\n"
            await engine.forget(reference)
    with podman() as stranger:
        stranger.mirrored_by(passing.host, "docker.io")
        with pytest.raises(AssertionError, match="unauthorized"):
            await stranger.pull(name)
    assert_secret(passing)


@pytest.mark.needs("busybox", "docker-registry", "skopeo")
async def test_skopeo_shows_its_login(tmp_path: Path, locked: Registry, passing: Mirror) -> None:
    """As crane and others of that kind do: challenged at /v2/, to the token service, and on with the token."""
    skopeo = Skopeo(tmp_path / "skopeo")
    name = f"{passing.host}/docker.io/team/app:1"
    await skopeo.copy(name, login=":".join(OWN))
    await skopeo.copy(name, login=":".join(OWN))
    with pytest.raises(AssertionError, match="unauthorized"):
        await skopeo.copy(name)
    assert_secret(passing)


@pytest.mark.needs("busybox", "containerd", "ctr", "docker-registry", root=True)
async def test_containerd_is_challenged_where_it_pulls(locked: Registry, passing: Mirror) -> None:
    """It asks no /v2/: the challenge of the first manifest leads it to the token service."""
    name = f"{passing.host}/docker.io/team/app:1"
    async with containerd() as engine:
        with pytest.raises(AssertionError):
            await engine.pull(name)
        await engine.pull(name, "--user", ":".join(OWN))
        assert await engine.run(name) == "private\n"
    assert_secret(passing)
