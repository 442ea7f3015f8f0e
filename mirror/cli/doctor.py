"""`mirror doctor`: what is wrong, and what to do about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mirror.cli.options import (
    INCOMPLETE,
    CacheOption,
    ConfigOption,
    ListenOption,
    MaxSizeOption,
    OfflineOption,
    UpstreamOption,
    failures_told,
)
from mirror.cli.programs import Programs
from mirror.config import read_settings
from mirror.doctor import Finding, Verdict, problem, worst
from mirror.errors import ConfigurationInvalid

_Json = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
_Root = Annotated[Path, typer.Option(metavar="DIR", help="Look for the clients' files below this directory.")]


def add_doctor(app: typer.Typer, programs: Programs) -> None:
    """Adds the command to *app*."""

    @app.command("doctor")
    def _doctor(
        config: ConfigOption = None,
        listen: ListenOption = None,
        cache: CacheOption = None,
        max_size: MaxSizeOption = None,
        upstream: UpstreamOption = None,
        offline: OfflineOption = None,
        root: _Root = Path("/"),
        as_json: _Json = False,
    ) -> None:
        """Check what the mirror needs, and say what to do about each thing that is wrong.

        The configuration, the disk, the port, each upstream (name, connection, TLS, login, pulls left), and whether
        docker, containerd and podman here use the mirror. Give it the options that you give to serve. --offline asks no
        upstream.

        Exit status: 0 nothing is wrong, or only warnings, 1 there is a problem, 2 it could not be done.
        """
        flags: dict[str, Mapping[str, object]] = {
            "server": {"listen": listen, "offline": offline},
            "cache": {"path": cache, "max_size": max_size},
        }
        with failures_told():
            try:
                settings = read_settings(config, flags, upstream or [])
            except ConfigurationInvalid as error:
                findings = [problem("configuration", str(error), "config/mirror.toml has every key with its default")]
            else:
                findings = programs.diagnose(settings, config=config, root=root)
        _tell(findings, as_json=as_json)
        if worst(findings) is Verdict.PROBLEM:
            raise typer.Exit(INCOMPLETE)


def _tell(findings: list[Finding], *, as_json: bool) -> None:
    if as_json:
        told = {"verdict": worst(findings), "findings": [asdict(finding) for finding in findings]}
        typer.echo(json.dumps(told, indent=1))
    else:
        for finding in findings:
            typer.echo(finding)
