"""`mirror doctor`: check everything that the mirror needs, and print a fix for each problem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirror.cli.options import FILE, INCOMPLETE, MirrorOptions, json_option, mirror_options, print_failures
from mirror.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from mirror.doctor import Finding


_CONFIGURATION_FIX = "correct it, then run mirror doctor again; config/mirror.toml lists every key with its default"


@click.command("doctor")
@mirror_options
@click.option(
    "--root",
    type=FILE,
    default=Path("/"),
    show_default=True,
    metavar="DIR",
    help="Look for the clients' files below this directory.",
)
@json_option
def doctor_command(options: MirrorOptions, root: Path, as_json: bool) -> None:
    """Check what the mirror needs, and print fixes.

    It checks the configuration, the disk, the port, each upstream (name, connection, TLS, login, pulls left), and
    whether docker, containerd and podman on this machine use the mirror. Give it the same options as serve. With
    --offline it sends no request to any upstream.

    Exit status: 0 no problem (perhaps warnings), 1 there is a problem, 2 the checks could not run.
    """
    with print_failures():
        from mirror.cli.environment import settings_in_force
        from mirror.cli.programs import diagnose
        from mirror.doctor import Verdict, problem, worst

        try:
            settings = settings_in_force(options.config, options.flags, options.upstreams)
        except ConfigurationInvalid as error:
            findings = [problem("configuration", str(error), _CONFIGURATION_FIX)]
        else:
            findings = diagnose(settings, config=options.config, root=root)
        verdict = worst(findings)
    _print(findings, verdict, as_json=as_json)
    if verdict is Verdict.PROBLEM:
        raise click.exceptions.Exit(INCOMPLETE)


def _print(findings: list[Finding], verdict: str, *, as_json: bool) -> None:
    if as_json:
        listed = [
            {"subject": one.subject, "verdict": one.verdict, "message": one.message, "fix": one.fix} for one in findings
        ]
        click.echo(json.dumps({"verdict": verdict, "findings": listed}, indent=1))
    else:
        for finding in findings:
            click.echo(finding)
