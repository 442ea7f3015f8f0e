"""The systemd unit: systemd reads it without warnings and rates its sandbox as tight."""

import shlex
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from mirror.config import read_settings
from tests.deploy.files import DEPLOY
from tests.deploy.program import check_command
from tests.real.program import ran
from tests.unit.configurations import environment

FOLDER = DEPLOY / "systemd"
UNIT = FOLDER / "mirror.service"
PROGRAM = "/opt/mirror/bin/mirror"
EXPOSURE = 15  # systemd-analyze exposure limit in tenths; the network and one socket stay accessible

needs_systemd = pytest.mark.needs("systemd-analyze")


def service() -> ConfigParser:
    """Parse the unit; of a repeated key the last value counts."""
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read(UNIT)
    return parser


@needs_systemd
async def test_systemd_verifies_the_unit(tmp_path: Path) -> None:
    """The program's path is replaced by an existing one."""
    text = UNIT.read_text()
    assert text.count(PROGRAM) == 1
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace(PROGRAM, str(Path(sys.prefix) / "bin" / "mirror")))
    result = await ran("systemd-analyze", "verify", "--man=no", str(unit))
    assert (result.code, result.output + result.errors) == (0, ""), str(result)


@needs_systemd
async def test_systemd_rates_the_sandbox_as_tight(tmp_path: Path) -> None:
    """The limit is tight: without one of the sandbox settings the exposure exceeds it."""

    async def exposed(unit: Path) -> int:
        result = await ran(
            "systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", str(unit)
        )
        assert "Overall exposure level" in result.output, str(result)
        return result.code

    open_one = tmp_path / UNIT.name
    open_one.write_text(UNIT.read_text().replace("SystemCallFilter=", "# "))
    assert await exposed(UNIT) == 0
    assert await exposed(open_one) != 0


def test_stop_timeout_exceeds_shutdown_limit() -> None:
    """ExecStart is a valid command line, and a start that would fail again is not repeated."""
    unit = service()["Service"]
    assert float(unit["TimeoutStopSec"].removesuffix("s")) > read_settings(None, {}, []).timeouts.shutdown + 5
    program, *arguments = shlex.split(unit["ExecStart"])
    assert program == PROGRAM
    check_command(arguments)
    assert unit["RestartPreventExitStatus"] == "2"
    assert int(unit["LimitNOFILE"]) >= 2 * read_settings(None, {}, []).limits.connections + 256


def test_variables_are_valid_settings() -> None:
    """The variables of the environment file and of the unit are valid settings."""
    lines = (FOLDER / "mirror.env").read_text().splitlines()
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    found = {name: value for name, _, value in pairs}
    assert found.keys() == {"MIRROR_LISTEN", "MIRROR_MAX_SIZE"}
    own = service()["Service"]["Environment"].partition("=")
    with environment():
        flags = {"server": {"listen": found["MIRROR_LISTEN"]}, "cache": {"max_size": found["MIRROR_MAX_SIZE"]}}
        flags["cache"][{"MIRROR_CACHE": "path"}[own[0]]] = own[2]
        settings = read_settings(None, flags, [])
    assert settings.cache.path == Path("/var/cache") / service()["Service"]["CacheDirectory"]
    assert settings.server == read_settings(None, {}, []).server


@pytest.mark.needs("systemd-sysusers")
async def test_sysusers_creates_the_user(tmp_path: Path) -> None:
    """systemd-sysusers creates the user that the unit names."""
    (tmp_path / "etc").mkdir()
    result = await ran("systemd-sysusers", f"--root={tmp_path}", str(FOLDER / "mirror.sysusers"))
    assert result.code == 0, str(result)
    (line,) = (tmp_path / "etc/passwd").read_text().splitlines()
    assert line.split(":")[0] == service()["Service"]["User"] == service()["Service"]["Group"]
    assert line.split(":")[5:] == ["/var/cache/mirror", "/usr/sbin/nologin"]
