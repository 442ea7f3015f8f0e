"""The unit: systemd reads it without a complaint, and finds little that it leaves open."""

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
EXPOSURE = 15  # tenths: what systemd-analyze counts at most; what is open is the network and a socket of its own

needs_systemd = pytest.mark.needs("systemd-analyze")


def service() -> ConfigParser:
    """The unit; of a key that it has twice, the last."""
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read(UNIT)
    return parser


@needs_systemd
async def test_systemd_reads_the_unit_without_a_complaint(tmp_path: Path) -> None:
    """With a program where it says that there is one."""
    text = UNIT.read_text()
    assert text.count(PROGRAM) == 1
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace(PROGRAM, str(Path(sys.prefix) / "bin" / "mirror")))
    said = await ran("systemd-analyze", "verify", "--man=no", str(unit))
    assert (said.code, said.output + said.errors) == (0, ""), str(said)


@needs_systemd
async def test_systemd_finds_little_that_it_may_do(tmp_path: Path) -> None:
    """And more as soon as a line is taken away: the bound is tight."""

    async def exposed(unit: Path) -> int:
        said = await ran(
            "systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", str(unit)
        )
        assert "Overall exposure level" in said.output, str(said)
        return said.code

    open_one = tmp_path / UNIT.name
    open_one.write_text(UNIT.read_text().replace("SystemCallFilter=", "# "))
    assert await exposed(UNIT) == 0
    assert await exposed(open_one) != 0


def test_the_mirror_ends_before_systemd_ends_it() -> None:
    """And what it is started with is what it knows; it is not started again where that would end the same."""
    unit = service()["Service"]
    assert float(unit["TimeoutStopSec"].removesuffix("s")) > read_settings(None, {}, []).timeouts.shutdown + 5
    program, *words = shlex.split(unit["ExecStart"])
    assert program == PROGRAM
    check_command(words)
    assert unit["RestartPreventExitStatus"] == "2"
    assert int(unit["LimitNOFILE"]) >= 2 * read_settings(None, {}, []).limits.connections + 256


def test_the_variables_make_settings() -> None:
    """Those of the file and of the unit."""
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
async def test_the_user_is_made(tmp_path: Path) -> None:
    """By systemd-sysusers, and it is the one that the unit names."""
    (tmp_path / "etc").mkdir()
    said = await ran("systemd-sysusers", f"--root={tmp_path}", str(FOLDER / "mirror.sysusers"))
    assert said.code == 0, str(said)
    (line,) = (tmp_path / "etc/passwd").read_text().splitlines()
    assert line.split(":")[0] == service()["Service"]["User"] == service()["Service"]["Group"]
    assert line.split(":")[5:] == ["/var/cache/mirror", "/usr/sbin/nologin"]
