"""The command line: all commands with their options.

Start-up time: `mirror --help`, `mirror --version`, `mirror COMMAND --help` and shell completion load neither aiohttp,
pydantic, structlog, uvloop nor rich, which together take half a second. There is one rule for that:

- The modules that declare commands (`bundles`, `client_config`, `doctor`, `images`, `serve`, `verify`, `warm`), and
  their imports at the top (`options`, `stdout`, `mirror.errors`, …), import only the standard library and click.
- The body of a command imports the modules that do its work: `programs` runs event loops, `environment` and
  `cache_directory` read the settings, `transfers`, `sync`, `progress` and `image_table` do the rest.

tests/unit/cli/test_start_up.py checks which libraries are loaded. Shell completion is click's:
`eval "$(_MIRROR_COMPLETE=bash_source mirror)"` (also zsh_source, fish_source).
"""

from __future__ import annotations

import click

from mirror.cli.bundles import export_command, import_command
from mirror.cli.client_config import client_config_command
from mirror.cli.doctor import doctor_command
from mirror.cli.images import gc_command, ls_command, pin_command, rm_command, stats_command, unpin_command
from mirror.cli.options import UNUSABLE
from mirror.cli.serve import serve_command
from mirror.cli.verify import verify_command
from mirror.cli.warm import warm_command
from mirror.observability.version import VERSION


class _InOrder(click.Group):
    """The group of all commands, which lists them in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the signature is click's
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Print the help if there are no arguments. click itself would print it on standard error."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit(UNUSABLE)
        return super().parse_args(ctx, args)


@click.group(cls=_InOrder)
@click.version_option(VERSION, message="mirror %(version)s", help="Print the version and exit.")
def command_line() -> None:
    """A pull-through caching mirror for OCI and Docker registries."""


for _command in (
    *(serve_command, verify_command, warm_command, export_command, import_command),
    *(ls_command, stats_command, pin_command, unpin_command, rm_command, gc_command),
    *(client_config_command, doctor_command),
):
    command_line.add_command(_command)
