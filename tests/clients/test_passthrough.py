"""Clients whose own logins the mirror forwards to the upstream (client_auth = "passthrough")."""

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
    """A docker-registry with one user and one image."""
    async with docker_registry(tmp_path / "locked", Htpasswd(tmp_path)) as registry:
        await registry.push(images.runnable("private"), "team/app", "1")
        yield registry


@pytest.fixture
async def passing(tmp_path: Path, locked: Registry) -> AsyncIterator[Mirror]:
    """A mirror without its own login for the upstream."""
    configuration = tmp_path / "mirror.toml"
    configuration.write_text(f'[upstreams."docker.io"]\nurl = "{locked.url}"\nclient_auth = "passthrough"\n')
    async with mirror(tmp_path / "mirror", "--config", str(configuration)) as started:
        yield started


def assert_secret(mirrored: Mirror) -> None:
    """Assert that the log has the user of each pull, and not the password."""
    assert Htpasswd.password not in mirrored.program.said()
    assert {event.get("user") for event in mirrored.events("pull_served")} == {Htpasswd.user}


@pytest.mark.needs("busybox", "containerd", "docker", "docker-registry", "dockerd", root=True)
async def test_docker_logs_in_with_the_login_for_the_upstream(locked: Registry, passing: Mirror) -> None:
    """`docker login` rejects a wrong password; `registry-mirrors` uses the login of Docker Hub; pulls need a login."""
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
    """Pulls by the mirror's name with the upstream in the path, and through registries.conf."""
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
async def test_skopeo_sends_login_for_the_upstream(tmp_path: Path, locked: Registry, passing: Mirror) -> None:
    """Like crane, skopeo gets the challenge at /v2/ and a token from the token service."""
    skopeo = Skopeo(tmp_path / "skopeo")
    name = f"{passing.host}/docker.io/team/app:1"
    await skopeo.copy(name, login=":".join(OWN))
    await skopeo.copy(name, login=":".join(OWN))
    with pytest.raises(AssertionError, match="unauthorized"):
        await skopeo.copy(name)
    assert_secret(passing)


@pytest.mark.needs("busybox", "containerd", "ctr", "docker-registry", root=True)
async def test_containerd_is_challenged_by_the_first_manifest(locked: Registry, passing: Mirror) -> None:
    """containerd does not request /v2/: the challenge comes with the first manifest."""
    name = f"{passing.host}/docker.io/team/app:1"
    async with containerd() as engine:
        with pytest.raises(AssertionError):
            await engine.pull(name)
        await engine.pull(name, "--user", ":".join(OWN))
        assert await engine.run(name) == "private\n"
    assert_secret(passing)
