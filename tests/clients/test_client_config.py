"""`mirror client-config`: what it prints makes the client use the mirror, and what it writes spares what was there."""

import asyncio
import json
import os
import pty
import sys
import tomllib
from pathlib import Path

import pytest

from mirror.clients import CLIENTS
from tests.real import images
from tests.real.containerd import containerd
from tests.real.docker import docker
from tests.real.mirror import Mirror, environment, mirror
from tests.real.podman import podman
from tests.real.program import Ran, ran
from tests.real.registry import Registry, docker_registry

COMMAND = (sys.executable, "-m", "mirror", "client-config")


async def told(*arguments: str) -> Ran:
    return await ran(*COMMAND, *arguments, env=environment())


async def printed(client: str, mirrored: Mirror) -> str:
    """What the command prints, as a pipe gets it."""
    said = await told(client, "--mirror", mirrored.url)
    assert said.code == 0, str(said)
    return said.output


@pytest.mark.needs("busybox", "containerd", "docker", "docker-registry", "dockerd", root=True)
async def test_dockerd_pulls_through_the_mirror_with_what_is_printed(upstream: Registry, mirrored: Mirror) -> None:
    """daemon.json is the printed file and nothing else; upstream is gone, so only the mirror can have answered."""
    await upstream.push(images.runnable("told to docker"), "library/told", "1")

    async with docker(mirrored.url, daemon_json=await printed("docker", mirrored)) as engine:
        await engine.pull("told:1")
        await engine.forget("told:1")
        await upstream.stop()
        await engine.pull("told:1")

        assert await engine.run("told:1") == "told to docker\n"

    assert mirrored.events("pull_served")


@pytest.mark.needs("busybox", "containerd", "ctr", "docker-registry", root=True)
async def test_containerd_pulls_from_every_registry_with_what_is_printed(tmp_path: Path, upstream: Registry) -> None:
    """One file in _default: equal names of two registries are the two images that they are."""
    async with docker_registry(tmp_path / "quay") as quay:
        await upstream.push(images.runnable("docker.io's"), "team/app", "1")
        await quay.push(images.runnable("quay.io's"), "team/app", "1")
        upstreams = {"docker.io": upstream.url, "quay.io": quay.url}

        async with mirror(tmp_path / "mirror", upstreams=upstreams) as mirrored, containerd() as engine:
            engine.configured(await printed("containerd", mirrored))
            for name in ("docker.io", "quay.io"):
                await engine.pull(f"{name}/team/app:1")

                assert await engine.run(f"{name}/team/app:1") == f"{name}'s\n"


@pytest.mark.needs("busybox", "docker-registry", "podman", root=True)
async def test_podman_pulls_from_every_registry_with_what_is_printed(tmp_path: Path, upstream: Registry) -> None:
    """Images keep their usual names; that of the mirror is in none."""
    async with docker_registry(tmp_path / "quay") as quay:
        await upstream.push(images.runnable("docker.io's"), "library/app", "1")
        await quay.push(images.runnable("quay.io's"), "team/app", "1")
        upstreams = {"docker.io": upstream.url, "quay.io": quay.url}

        async with mirror(tmp_path / "mirror", upstreams=upstreams) as mirrored:
            with podman() as engine:
                engine.configured(await printed("podman", mirrored))
                for name, repository in (("docker.io", "library/app"), ("quay.io", "team/app")):
                    await engine.pull(f"{name}/{repository}:1")

                    assert await engine.run(f"{name}/{repository}:1") == f"{name}'s\n"


async def test_only_the_file_goes_to_standard_output() -> None:
    """Its name and what to do besides are for people, and in nobody's pipe."""
    said = await told("docker", "--mirror", "http://127.0.0.1:5000")

    assert said.code == 0
    assert json.loads(said.output) == {"registry-mirrors": ["http://127.0.0.1:5000"]}
    assert said.errors.startswith("# /etc/docker/daemon.json\n")
    assert "systemctl reload docker" in said.errors


async def test_the_address_and_the_registries_are_those_of_the_configuration(tmp_path: Path) -> None:
    """The command reads the mirror's own configuration; 0.0.0.0 is nothing that a client can connect to."""
    configuration = tmp_path / "mirror.toml"
    configuration.write_text('[server]\nlisten = "0.0.0.0:1234"\n[upstreams."r.test"]\nurl = "https://r.test"\n')

    said = await told("podman", "--config", str(configuration))

    registries = tomllib.loads(said.output)["registry"]
    assert registries[-1]["mirror"] == [{"location": "127.0.0.1:1234/r.test", "insecure": True}]
    assert {"docker.io", "quay.io", "r.test"} < {one["location"] for one in registries}


async def test_writing_merges_and_keeps_a_copy(tmp_path: Path) -> None:
    """What was there stays in the file and beside it, with its mode; the second time there is nothing to do."""
    file = tmp_path / "etc/docker/daemon.json"
    file.parent.mkdir(parents=True)
    before = '{"log-driver": "journald", "registry-mirrors": ["https://old.example"]}'
    file.write_text(before)
    file.chmod(0o640)

    said = await told("docker", "--write", "--yes", "--root", str(tmp_path))

    assert said.code == 0, str(said)
    assert said.output == ""
    assert json.loads(file.read_text()) == {
        "log-driver": "journald",
        "registry-mirrors": ["http://127.0.0.1:5000", "https://old.example"],
    }
    (backup,) = (one for one in file.parent.iterdir() if one != file)
    assert backup.read_text() == before
    assert backup.name.startswith("daemon.json.bak-")
    assert file.stat().st_mode & 0o777 == backup.stat().st_mode & 0o777 == 0o640
    assert "systemctl reload docker" in said.errors

    again = await told("docker", "--write", "--root", str(tmp_path))

    assert again.code == 0
    assert "has this content already" in again.errors
    assert len(list(file.parent.iterdir())) == 2


@pytest.mark.parametrize(
    ("client", "path", "text"),
    [
        ("docker", "etc/docker/daemon.json", '{"registry-mirrors": ['),
        ("containerd", "etc/containerd/certs.d/_default/hosts.toml", "[host"),
        ("podman", "etc/containers/registries.conf", "[[registry"),
        ("buildkit", "etc/buildkit/buildkitd.toml", "debug = maybe"),
        ("k3s", "etc/rancher/k3s/registries.yaml", "mirrors: ["),
    ],
)
async def test_a_broken_file_stays_as_it_is(tmp_path: Path, client: str, path: str, text: str) -> None:
    """The error names the file and what is wrong with it; nothing is written, not even a copy."""
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(text)

    said = await told(client, "--write", "--yes", "--root", str(tmp_path))

    assert said.code == 2
    assert str(file) in said.errors
    assert [one for one in tmp_path.rglob("*") if one.is_file()] == [file]
    assert file.read_text() == text


async def test_without_a_terminal_nothing_is_written_unasked(tmp_path: Path) -> None:
    """A script has to say that it means it."""
    said = await told("docker", "--write", "--root", str(tmp_path))

    assert said.code == 2
    assert "--yes" in said.errors
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
async def test_on_a_terminal_it_shows_the_change_and_asks(tmp_path: Path, answer: str, code: int) -> None:
    """What is going to change is on the terminal before the question; no is no."""
    master, terminal = pty.openpty()
    try:
        child = await asyncio.create_subprocess_exec(
            *COMMAND,
            *("docker", "--write", "--root", str(tmp_path)),
            stdin=terminal,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **environment()},
        )
        os.write(master, f"{answer}\n".encode())
        async with asyncio.timeout(30):
            _, errors = await child.communicate()
    finally:
        os.close(master)
        os.close(terminal)

    assert child.returncode == code, errors
    assert b'+    "http://127.0.0.1:5000"' in errors
    assert (tmp_path / "etc/docker/daemon.json").exists() == (answer == "y")


async def test_what_another_file_decides_is_left_to_it(tmp_path: Path) -> None:
    """podman takes a whole [[registry]] from the last file that has one: ours would put the other out of force."""
    other = tmp_path / "etc/containers/registries.conf"
    other.parent.mkdir(parents=True)
    other.write_text('[[registry]]\nlocation = "quay.io"\nblocked = true\n')

    said = await told("podman", "--write", "--yes", "--root", str(tmp_path))

    assert said.code == 0
    assert f"{other} decides about quay.io" in said.errors
    ours = tomllib.loads((other.parent / "registries.conf.d/mirror.conf").read_text())
    assert "docker.io" in {one["location"] for one in ours["registry"]}
    assert "quay.io" not in {one["location"] for one in ours["registry"]}


@pytest.mark.parametrize("client", ["kaniko", "kubernetes"])
async def test_what_reads_no_file_gets_none(tmp_path: Path, client: str) -> None:
    """Flags and manifests are printed only."""
    said = await told(client, "--write", "--yes", "--root", str(tmp_path))

    assert said.code == 2
    assert "leave out --write" in said.errors


@pytest.mark.parametrize("address", ["mirror.lan:5000", ""])
async def test_an_address_that_is_none_is_refused(address: str) -> None:
    """The message says how one is written. An empty one is no default: a variable was not set."""
    said = await told("docker", "--mirror", address)

    assert said.code == 2
    assert "write http:// or https://" in said.errors
    assert said.output == ""


@pytest.mark.parametrize("root", ["", "mistyped", "file"])
async def test_a_root_that_is_no_directory_is_not_made(tmp_path: Path, root: str) -> None:
    """Nothing would read what is written there."""
    (tmp_path / "file").touch()
    said = await told("docker", "--write", "--yes", "--root", str(tmp_path / root) if root else "")

    assert said.code == 2
    assert "--root" in said.errors
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


async def test_a_client_that_is_none_is_refused_in_plain_words() -> None:
    """And those that there are, are named."""
    said = await told("nosuch")

    assert said.code == 2
    assert "there is no client 'nosuch'" in said.errors
    assert all(name in said.errors for name in CLIENTS)
    assert "Value error" not in said.errors
