"""Clients that speak TLS with the mirror, and show it a certificate of their own."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.http.certificates import Authority
from tests.real import images
from tests.real.containerd import containerd
from tests.real.mirror import Mirror, mirror
from tests.real.registry import Registry
from tests.real.skopeo import Skopeo


@dataclass(frozen=True, slots=True)
class Sealed:
    """A mirror that lets in who has a certificate, and the files of somebody who has: named as docker wants them."""

    mirror: Mirror
    directory: Path
    authority: Path

    @property
    def files(self) -> tuple[Path, Path]:
        return self.directory / "client.cert", self.directory / "client.key"


@pytest.fixture
async def sealed(tmp_path: Path, upstream: Registry) -> AsyncIterator[Sealed]:
    """With node-1 as the client."""
    authority = Authority(tmp_path)
    server = authority.server("server.pem")
    directory = tmp_path / "certificates"
    directory.mkdir()
    for file, name in zip(authority.write_client_certificate("node-1"), ("client.cert", "client.key"), strict=True):
        file.rename(directory / name)
    trusted = authority.write_ca_certificate("ca.pem")
    configuration = tmp_path / "mirror.toml"
    configuration.write_text(
        f'[server]\ncertificate_file = "{server}"\nkey_file = "{server}"\n[clients]\ncertificates_file = "{trusted}"\n'
    )
    upstreams = {"docker.io": upstream.url}
    async with mirror(tmp_path / "mirror", "--config", str(configuration), upstreams=upstreams) as started:
        yield Sealed(started, directory, trusted)


@pytest.mark.needs("busybox", "docker-registry", "skopeo")
async def test_skopeo_shows_a_certificate(tmp_path: Path, upstream: Registry, sealed: Sealed) -> None:
    """A directory as in /etc/docker/certs.d; without the client's own files it hears what is missing."""
    image = images.runnable("sealed")
    await upstream.push(image, "team/app", "1")
    skopeo = Skopeo(tmp_path / "skopeo")
    name = f"{sealed.mirror.host}/docker.io/team/app:1"
    (sealed.directory / "ca.crt").write_bytes(sealed.authority.read_bytes())

    copy = await skopeo.copy(name, certificates=sealed.directory)

    assert (copy / "manifest.json").read_bytes() == image.manifest.content
    await sealed.mirror.program.until(lambda: bool(sealed.mirror.events("pull_served")))
    assert {event["user"] for event in sealed.mirror.events("pull_served")} == {"node-1"}
    for file in sealed.files:
        file.unlink()
    with pytest.raises(AssertionError, match="403"):
        await skopeo.copy(name, certificates=sealed.directory)


@pytest.mark.needs("busybox", "containerd", "ctr", "docker-registry", root=True)
async def test_containerd_shows_a_certificate(upstream: Registry, sealed: Sealed) -> None:
    """ca and client in hosts.toml."""
    await upstream.push(images.runnable("sealed"), "team/app", "1")
    certificate, key = sealed.files

    async with containerd() as engine:
        engine.mirrored_by(sealed.mirror.url, "docker.io", more=f'ca = "{sealed.authority}"')
        with pytest.raises(AssertionError):
            await engine.pull("docker.io/team/app:1")

        more = f'ca = "{sealed.authority}"\nclient = [["{certificate}", "{key}"]]'
        engine.mirrored_by(sealed.mirror.url, "docker.io", more=more)
        await engine.pull("docker.io/team/app:1")

        assert await engine.run("docker.io/team/app:1") == "sealed\n"
    assert {event["user"] for event in sealed.mirror.events("pull_served")} == {"node-1"}
