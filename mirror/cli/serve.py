"""`mirror serve`: serve pulls."""

from __future__ import annotations

import click

from mirror.cli.options import (
    MirrorOptions,
    log_format_option,
    mirror_options,
    print_failures,
)


@click.command("serve")
@mirror_options
@log_format_option
def serve_command(options: MirrorOptions, log_format: str | None) -> None:
    """Serve pulls, from the cache or through it.

    Needs no configuration.
    """
    with print_failures():
        from mirror.cli.environment import settings_in_force
        from mirror.cli.programs import serve

        flags = {**options.flags, "log": {"format": log_format}}
        serve(settings_in_force(options.config, flags, options.upstreams))
