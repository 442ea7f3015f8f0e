"""Start-up: help, the version, shell completion and client-config load no large library."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mirror.cli import command_line
from mirror.observability.version import VERSION

ROOT = Path(__file__).parents[3]
HEAVY = {"aiohttp", "asyncio", "pydantic", "rich", "structlog", "uvloop"}
RUN = """
import atexit, sys
atexit.register(lambda: print("LOADED", *sys.modules, file=sys.stderr))
sys.argv[0] = "mirror"
from mirror.__main__ import main
main()
"""


def loaded(*arguments: str, **variables: str) -> tuple[str, set[str]]:
    """Run the program, and return its standard output and the names of all modules that it loaded."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MIRROR_")}
    ended = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        env=environment | {"PYTHONPATH": str(ROOT)} | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    assert ended.returncode == 0, ended.stderr
    (line,) = (line for line in ended.stderr.splitlines() if line.startswith("LOADED "))
    return ended.stdout, set(line.split())


def test_version_equals_that_of_the_package() -> None:
    """`mirror --version` does not ask importlib.metadata, which would take half of the start-up time."""
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION
    out, modules = loaded("--version")
    assert out == f"mirror {VERSION}\n"
    assert not modules & (HEAVY | {"importlib.metadata"})


@pytest.mark.parametrize("command", ["", *command_line.commands])
def test_help_loads_no_large_library(command: str) -> None:
    """Neither the help of the program nor that of a command loads one."""
    out, modules = loaded(*command.split(), "--help")
    assert out.startswith(f"Usage: mirror {command}".rstrip())
    assert not modules & HEAVY


def test_no_arguments_print_the_help_on_standard_output() -> None:
    """The status is 2, as no command ran."""
    ended = subprocess.run([sys.executable, "-m", "mirror"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (2, "")
    assert ended.stdout == loaded("--help")[0]


@pytest.mark.parametrize(
    ("words", "completed"), [("mirror ", "doctor"), ("mirror serve --l", "--listen"), ("mirror client-config k", "k3s")]
)
def test_shell_completion_loads_no_large_library(words: str, completed: str) -> None:
    """Completion of commands, options and clients."""
    number = str(len(words.split(" ")) - 1)
    out, modules = loaded(_MIRROR_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=number)
    assert f"plain,{completed}" in out.splitlines()
    assert not modules & HEAVY


@pytest.mark.parametrize("client", ["docker", "containerd", "podman", "buildkit", "k3s", "kaniko", "kubernetes"])
def test_client_config_with_an_address_loads_no_settings(client: str) -> None:
    """The output is the same as after reading them."""
    out, modules = loaded("client-config", client, "--mirror", "http://mirror.test:5000", MIRROR_CACHE="/elsewhere")
    assert not modules & HEAVY
    read, modules = loaded(
        *("client-config", client, "--mirror", "http://mirror.test:5000"), MIRROR_TAGS__FRESH_FOR="5m"
    )
    assert "pydantic" in modules
    assert read == out


def test_client_config_reads_settings_that_name_upstreams() -> None:
    """A flag or a variable names them."""
    arguments = ("client-config", "k3s", "--mirror", "http://mirror.test:5000")
    assert "new.test" in loaded(*arguments, "--upstream", "new.test=http://new.test")[0]
    assert "new.test" in loaded(*arguments, MIRROR_UPSTREAM="new.test=http://new.test")[0]
