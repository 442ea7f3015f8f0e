"""The mirror's command-line flags and environment variables, as the program defines them."""

from collections.abc import Sequence

from mirror.cli import command_line
from tests.unit.configurations import KEYS

COMMANDS = command_line.commands


def check_command(words: Sequence[str]) -> None:
    """Assert that the program accepts this command line; the command is not run.

    Args:
        words: the arguments after the program's name.
    """
    name, *rest = words
    assert name in COMMANDS, f"no command {name!r}"
    with COMMANDS[name].make_context(name, list(rest)) as context:
        assert not context.args, context.args


def variables() -> frozenset[str]:
    """Return the variables of all flags and configuration keys."""
    flags = {str(option.envvar) for command in COMMANDS.values() for option in command.params if option.envvar}
    return frozenset(flags | {f"MIRROR_{'__'.join(key).upper()}" for key in KEYS if key[0] != "upstreams"})
