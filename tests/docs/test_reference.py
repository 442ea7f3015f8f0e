"""docs/configuration.md and config/mirror.toml agree with the settings."""

import tomllib
from pathlib import Path

import pytest

from mirror.cli import command_line
from mirror.config import Settings, read_settings
from mirror.errors import ConfigurationInvalid
from tests.docs import reference
from tests.unit.configurations import environment

KEYS = [key for section in Settings.model_fields for key in reference.keys(section)]


def test_reference_files_are_up_to_date() -> None:
    """`make reference` writes both files."""
    assert reference.PAGE.read_text() == reference.page()
    assert reference.FILE.read_text() == reference.file()


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_documented_default_is_the_default(key: reference.Key, tmp_path: Path) -> None:
    """Writing a documented default changes no setting; a key without a default has an example."""
    assert key.text.endswith("."), key.path
    assert f"| `{key.name}` | {key.kind} |" in reference.page()
    if key.section in {"access", "upstreams"} or key.default is None:
        assert key.default is not None or key.path in reference.EXAMPLES
        return
    file = tmp_path / "mirror.toml"
    file.write_text("\n".join([f"[{key.section}]", *reference.lines(key)]))
    with environment():
        assert read_settings(file, {}, []) == read_settings(None, {}, [])


@pytest.mark.parametrize(
    "key", [key for key in KEYS if key.section not in {"access", "upstreams"}], ids=lambda key: key.path
)
def test_each_environment_variable_is_read(key: reference.Key) -> None:
    """Each variable changes its key or is refused with the key's name; variables of flags are tested with the flags."""
    if key.path in reference.FLAGS:
        return
    with environment(**{key.variable: "/elsewhere"}):
        assert outcome(key) in {"/elsewhere", f"{key.section}.{key.name} is refused"}


def test_every_flag_with_a_variable_is_documented() -> None:
    """Every flag with a variable is on the page, with that variable."""
    options = [option for command in command_line.commands.values() for option in command.params]
    found = {str(option.envvar) for option in options if option.envvar}
    shown = {variable for _, variable in reference.FLAGS.values()} | {"MIRROR_CONFIG", "MIRROR_UPSTREAM"}
    assert found == shown
    assert all(variable in reference.page() for variable in shown)


def test_every_example_is_valid(tmp_path: Path) -> None:
    """The commented examples in config/mirror.toml are valid once uncommented."""
    text = reference.FILE.read_text()
    assert tomllib.loads(text)
    access = "\n".join(line.removeprefix("#     ") for line in text.splitlines() if line.startswith("#     "))
    rules = tomllib.loads(access.partition("[[access]]")[2].partition("Instead of")[0])
    assert rules == {"users": ["ci-*"], "repositories": ["docker.io/library/*", "ghcr.io/team/*"], "allow": True}


def outcome(key: reference.Key) -> str:
    """Return the key's value, or that its value is refused, by itself or with its section."""
    try:
        return str(getattr(getattr(read_settings(None, {}, []), key.section), key.name))
    except ConfigurationInvalid as error:
        return f"{key.path} is refused" if key.section in str(error) and key.name in str(error) else str(error)
