"""The image's check: it sees a mirror that answers, in plain HTTP or over TLS, and nothing else."""

import sys
from pathlib import Path

import pytest

from tests.deploy.files import DEPLOY
from tests.http.certificates import Authority
from tests.real.mirror import mirror
from tests.real.program import ran
from tests.real.registry import docker_registry


async def verdict(listen: str) -> int:
    """The exit status of the check where the mirror should listen there."""
    said = await ran(sys.executable, str(DEPLOY / "docker" / "healthy.py"), env={"MIRROR_LISTEN": listen})
    assert (said.output, said.errors) == ("", ""), str(said)
    return said.code


async def test_a_mirror_is_healthy_whether_it_speaks_tls_or_not(tmp_path: Path) -> None:
    """Also one that wants users, or certificates of clients: /healthz is for everybody."""
    async with mirror(tmp_path / "plain", "--offline") as plain:
        assert await verdict(plain.host) == 0
        assert await verdict(f"0.0.0.0:{plain.port}") == 0
    assert await verdict(plain.host) == 1
    file = Authority(tmp_path).server("mirror.pem")
    config = tmp_path / "mirror.toml"
    config.write_text(f'[server]\ncertificate_file = "{file}"\nkey_file = "{file}"\n')
    async with mirror(tmp_path / "sealed", "--offline", "--config", str(config)) as sealed:
        assert sealed.url.startswith("https://")
        assert await verdict(sealed.host) == 0


@pytest.mark.needs("docker-registry")
async def test_another_program_is_not_healthy(tmp_path: Path) -> None:
    """It answers /healthz with 404."""
    async with docker_registry(tmp_path) as other:
        assert await verdict(f"127.0.0.1:{other.port}") == 1
