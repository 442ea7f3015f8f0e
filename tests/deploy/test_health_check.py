"""The image's health check: successful only for a mirror that answers, over HTTP or TLS."""

import sys
from pathlib import Path

import pytest

from tests.deploy.files import DEPLOY
from tests.http.certificates import Authority
from tests.real.mirror import mirror
from tests.real.program import ran
from tests.real.registry import docker_registry


async def check_status(listen: str) -> int:
    """Return the exit status of the check for this listen address."""
    result = await ran(sys.executable, str(DEPLOY / "docker" / "healthy.py"), env={"MIRROR_LISTEN": listen})
    assert (result.output, result.errors) == ("", ""), str(result)
    return result.code


async def test_mirror_is_healthy_with_and_without_tls(tmp_path: Path) -> None:
    """/healthz needs no login or client certificate, so mirrors that require them are healthy too."""
    async with mirror(tmp_path / "plain", "--offline") as plain:
        assert await check_status(plain.host) == 0
        assert await check_status(f"0.0.0.0:{plain.port}") == 0
    assert await check_status(plain.host) == 1
    file = Authority(tmp_path).server("mirror.pem")
    config = tmp_path / "mirror.toml"
    config.write_text(f'[server]\ncertificate_file = "{file}"\nkey_file = "{file}"\n')
    async with mirror(tmp_path / "sealed", "--offline", "--config", str(config)) as sealed:
        assert sealed.url.startswith("https://")
        assert await check_status(sealed.host) == 0


@pytest.mark.needs("docker-registry")
async def test_other_program_is_unhealthy(tmp_path: Path) -> None:
    """Another program answers /healthz with 404."""
    async with docker_registry(tmp_path) as other:
        assert await check_status(f"127.0.0.1:{other.port}") == 1
