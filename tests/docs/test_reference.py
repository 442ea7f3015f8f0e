"""docs/configuration.md and config/mirror.toml say what the settings are."""

import tomllib
from pathlib import Path

import pytest

from mirror.cli import command_line
from mirror.config import Settings, read_settings
from mirror.errors import ConfigurationInvalid
from tests.docs import reference
from tests.unit.configurations import environment

KEYS = [key for section in Settings.model_fields for key in reference.keys(section)]


def test_both_are_as_they_would_be_written_now() -> None:
    """`make reference` writes them."""
    assert reference.PAGE.read_text() == reference.page()
    assert reference.FILE.read_text() == reference.file()


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_each_key_says_what_it_is_and_its_default_is_the_true_one(key: reference.Key, tmp_path: Path) -> None:
    """What is shown as a default changes nothing when it is written; what has none shows an example."""
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
def test_each_variable_is_read(key: reference.Key) -> None:
    """It changes its key, or is refused by that name; those of flags are read with the flags."""
    if key.path in reference.FLAGS:
        return
    with environment(**{key.variable: "/elsewhere"}):
        assert outcome(key) in {"/elsewhere", f"{key.section}.{key.name} is refused"}


def test_the_flags_are_those_of_the_commands() -> None:
    """Every flag with a variable is on the page, with that variable."""
    options = [option for command in command_line.commands.values() for option in command.params]
    found = {str(option.envvar) for option in options if option.envvar}
    shown = {variable for _, variable in reference.FLAGS.values()} | {"MIRROR_CONFIG", "MIRROR_UPSTREAM"}
    assert found == shown
    assert all(variable in reference.page() for variable in shown)


def test_every_example_can_be_used(tmp_path: Path) -> None:
    """What stands in the file behind a #, once that is taken away."""
    text = reference.FILE.read_text()
    assert tomllib.loads(text)
    access = "\n".join(line.removeprefix("#     ") for line in text.splitlines() if line.startswith("#     "))
    rules = tomllib.loads(access.partition("[[access]]")[2].partition("Instead of")[0])
    assert rules == {"users": ["ci-*"], "repositories": ["docker.io/library/*", "ghcr.io/team/*"], "allow": True}


def outcome(key: reference.Key) -> str:
    """What the key is set to, or that its value is refused, alone or with the section that it is in."""
    try:
        return str(getattr(getattr(read_settings(None, {}, []), key.section), key.name))
    except ConfigurationInvalid as error:
        return f"{key.path} is refused" if key.section in str(error) and key.name in str(error) else str(error)
