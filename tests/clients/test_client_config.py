"""`mirror client-config`: clients use the mirror with the printed files, and --write preserves existing settings."""

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


async def client_config(*arguments: str) -> Ran:
    return await ran(*COMMAND, *arguments, env=environment())


async def printed(client: str, mirrored: Mirror) -> str:
    """Return the printed configuration, from standard output."""
    result = await client_config(client, "--mirror", mirrored.url)
    assert result.code == 0, str(result)
    return result.output


@pytest.mark.needs("busybox", "containerd", "docker", "docker-registry", "dockerd", root=True)
async def test_dockerd_pulls_with_printed_configuration(upstream: Registry, mirrored: Mirror) -> None:
    """daemon.json is the printed file alone; upstream is stopped, so the image comes from the mirror."""
    await upstream.push(images.runnable("told to docker"), "library/told", "1")

    async with docker(mirrored.url, daemon_json=await printed("docker", mirrored)) as engine:
        await engine.pull("told:1")
        await engine.forget("told:1")
        await upstream.stop()
        await engine.pull("told:1")

        assert await engine.run("told:1") == "told to docker\n"

    assert mirrored.events("pull_served")


@pytest.mark.needs("busybox", "containerd", "ctr", "docker-registry", root=True)
async def test_containerd_pulls_with_printed_configuration(tmp_path: Path, upstream: Registry) -> None:
    """One file in _default serves all registries; the same name in two registries means two images."""
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
async def test_podman_pulls_with_printed_configuration(tmp_path: Path, upstream: Registry) -> None:
    """Images keep their usual names, without the mirror's name."""
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


async def test_standard_output_has_only_the_file() -> None:
    """The file's name and the further steps are on standard error, not in a pipe."""
    result = await client_config("docker", "--mirror", "http://127.0.0.1:5000")

    assert result.code == 0
    assert json.loads(result.output) == {"registry-mirrors": ["http://127.0.0.1:5000"]}
    assert result.errors.startswith("# /etc/docker/daemon.json\n")
    assert "systemctl reload docker" in result.errors


async def test_address_and_registries_come_from_the_configuration(tmp_path: Path) -> None:
    """The command reads the mirror's configuration; 0.0.0.0 is replaced by an address that clients can connect to."""
    configuration = tmp_path / "mirror.toml"
    configuration.write_text('[server]\nlisten = "0.0.0.0:1234"\n[upstreams."r.test"]\nurl = "https://r.test"\n')

    result = await client_config("podman", "--config", str(configuration))

    registries = tomllib.loads(result.output)["registry"]
    assert registries[-1]["mirror"] == [{"location": "127.0.0.1:1234/r.test", "insecure": True}]
    assert {"docker.io", "quay.io", "r.test"} < {one["location"] for one in registries}


async def test_write_merges_and_keeps_a_copy(tmp_path: Path) -> None:
    """The old file is merged and also kept as a copy with its mode; a second run changes nothing."""
    file = tmp_path / "etc/docker/daemon.json"
    file.parent.mkdir(parents=True)
    before = '{"log-driver": "journald", "registry-mirrors": ["https://old.example"]}'
    file.write_text(before)
    file.chmod(0o640)

    result = await client_config("docker", "--write", "--yes", "--root", str(tmp_path))

    assert result.code == 0, str(result)
    assert result.output == ""
    assert json.loads(file.read_text()) == {
        "log-driver": "journald",
        "registry-mirrors": ["http://127.0.0.1:5000", "https://old.example"],
    }
    (backup,) = (one for one in file.parent.iterdir() if one != file)
    assert backup.read_text() == before
    assert backup.name.startswith("daemon.json.bak-")
    assert file.stat().st_mode & 0o777 == backup.stat().st_mode & 0o777 == 0o640
    assert "systemctl reload docker" in result.errors

    again = await client_config("docker", "--write", "--root", str(tmp_path))

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
async def test_write_leaves_invalid_file_unchanged(tmp_path: Path, client: str, path: str, text: str) -> None:
    """The error has the file and the problem; nothing is written, and no copy is made."""
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(text)

    result = await client_config(client, "--write", "--yes", "--root", str(tmp_path))

    assert result.code == 2
    assert str(file) in result.errors
    assert [one for one in tmp_path.rglob("*") if one.is_file()] == [file]
    assert file.read_text() == text


async def test_write_without_terminal_requires_yes(tmp_path: Path) -> None:
    """A script has to pass --yes."""
    result = await client_config("docker", "--write", "--root", str(tmp_path))

    assert result.code == 2
    assert "--yes" in result.errors
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
async def test_write_on_terminal_shows_change_and_asks(tmp_path: Path, answer: str, code: int) -> None:
    """The change is shown before the question; "n" writes nothing."""
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


async def test_write_leaves_registries_of_other_files_out(tmp_path: Path) -> None:
    """podman reads a [[registry]] from the last file that has one: a second one would override the existing file."""
    other = tmp_path / "etc/containers/registries.conf"
    other.parent.mkdir(parents=True)
    other.write_text('[[registry]]\nlocation = "quay.io"\nblocked = true\n')

    result = await client_config("podman", "--write", "--yes", "--root", str(tmp_path))

    assert result.code == 0
    assert f"{other} already configures the registry quay.io" in result.errors
    ours = tomllib.loads((other.parent / "registries.conf.d/mirror.conf").read_text())
    assert "docker.io" in {one["location"] for one in ours["registry"]}
    assert "quay.io" not in {one["location"] for one in ours["registry"]}


@pytest.mark.parametrize("client", ["kaniko", "kubernetes"])
async def test_write_is_refused_for_clients_without_file(tmp_path: Path, client: str) -> None:
    """Configuration made of flags and manifests is only printed."""
    result = await client_config(client, "--write", "--yes", "--root", str(tmp_path))

    assert result.code == 2
    assert "leave out --write" in result.errors


@pytest.mark.parametrize("address", ["mirror.lan:5000", ""])
async def test_invalid_mirror_address_is_refused(address: str) -> None:
    """The message says how to write an address. An empty one (an unset variable) does not mean the default."""
    result = await client_config("docker", "--mirror", address)

    assert result.code == 2
    assert "write http:// or https://" in result.errors
    assert result.output == ""


@pytest.mark.parametrize("root", ["", "mistyped", "file"])
async def test_write_does_not_create_the_root_directory(tmp_path: Path, root: str) -> None:
    """No client reads a file below a mistyped root."""
    (tmp_path / "file").touch()
    result = await client_config("docker", "--write", "--yes", "--root", str(tmp_path / root) if root else "")

    assert result.code == 2
    assert "--root" in result.errors
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


async def test_unknown_client_is_refused_with_known_ones() -> None:
    """The message lists the known clients."""
    result = await client_config("nosuch")

    assert result.code == 2
    assert "there is no client 'nosuch'" in result.errors
    assert all(name in result.errors for name in CLIENTS)
    assert "Value error" not in result.errors
