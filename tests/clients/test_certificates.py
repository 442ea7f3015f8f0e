"""skopeo and containerd authenticate to the mirror with a TLS client certificate."""

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
class TlsMirror:
    """A mirror that requires a client certificate, and the files of a client: named as docker's certs.d expects."""

    mirror: Mirror
    directory: Path
    authority: Path

    @property
    def files(self) -> tuple[Path, Path]:
        return self.directory / "client.cert", self.directory / "client.key"


@pytest.fixture
async def tls(tmp_path: Path, upstream: Registry) -> AsyncIterator[TlsMirror]:
    """A mirror that requires TLS client certificates, with a certificate for node-1."""
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
        yield TlsMirror(started, directory, trusted)


@pytest.mark.needs("busybox", "docker-registry", "skopeo")
async def test_skopeo_presents_client_certificate(tmp_path: Path, upstream: Registry, tls: TlsMirror) -> None:
    """The directory is like /etc/docker/certs.d; without a client certificate in it the pull fails with 403."""
    image = images.runnable("sealed")
    await upstream.push(image, "team/app", "1")
    skopeo = Skopeo(tmp_path / "skopeo")
    name = f"{tls.mirror.host}/docker.io/team/app:1"
    (tls.directory / "ca.crt").write_bytes(tls.authority.read_bytes())

    copy = await skopeo.copy(name, certificates=tls.directory)

    assert (copy / "manifest.json").read_bytes() == image.manifest.content
    await tls.mirror.program.until(lambda: bool(tls.mirror.events("pull_served")))
    assert {event["user"] for event in tls.mirror.events("pull_served")} == {"node-1"}
    for file in tls.files:
        file.unlink()
    with pytest.raises(AssertionError, match="403"):
        await skopeo.copy(name, certificates=tls.directory)


@pytest.mark.needs("busybox", "containerd", "ctr", "docker-registry", root=True)
async def test_containerd_presents_client_certificate(upstream: Registry, tls: TlsMirror) -> None:
    """hosts.toml has `ca` and `client`."""
    await upstream.push(images.runnable("sealed"), "team/app", "1")
    certificate, key = tls.files

    async with containerd() as engine:
        engine.mirrored_by(tls.mirror.url, "docker.io", more=f'ca = "{tls.authority}"')
        with pytest.raises(AssertionError):
            await engine.pull("docker.io/team/app:1")

        more = f'ca = "{tls.authority}"\nclient = [["{certificate}", "{key}"]]'
        engine.mirrored_by(tls.mirror.url, "docker.io", more=more)
        await engine.pull("docker.io/team/app:1")

        assert await engine.run("docker.io/team/app:1") == "sealed\n"
    assert {event["user"] for event in tls.mirror.events("pull_served")} == {"node-1"}
