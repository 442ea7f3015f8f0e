"""`mirror verify`: check stored content for damage."""

from __future__ import annotations

from pathlib import Path

import click

from mirror.cli.options import (
    INCOMPLETE,
    INTERRUPTED,
    cache_option,
    config_option,
    print_failures,
    upstream_option,
)


@click.command("verify")
@config_option
@cache_option
@upstream_option
@click.option("--repair", is_flag=True, help="Download damaged content from its upstream again instead of removing it.")
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    metavar="N",
    help="Number of blobs to read at the same time.",
)
def verify_command(
    config: Path | None, cache: Path | None, upstreams: tuple[str, ...], repair: bool, jobs: int
) -> None:
    """Check all content of the cache for damage.

    The command reads every blob and compares its digest. A running mirror may keep serving meanwhile. Damaged content
    is removed; the next pull downloads it again.

    Exit status: 0 no damage, 1 damage was found (and removed or repaired), 2 the check could not run, 130 stopped.
    """
    with print_failures():
        from mirror.cli.environment import settings_in_force
        from mirror.cli.programs import verify

        settings = settings_in_force(config, {"cache": {"path": cache}}, list(upstreams))
        findings = verify(settings, repair=repair, jobs=jobs)
    click.echo(findings)
    if not findings.is_whole:
        raise click.exceptions.Exit(INTERRUPTED)
    if not findings.is_good:
        raise click.exceptions.Exit(INCOMPLETE)
