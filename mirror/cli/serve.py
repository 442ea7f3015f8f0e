"""`mirror serve`, and `mirror verify` of what it serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from mirror.cli.options import (
    INCOMPLETE,
    INTERRUPTED,
    CacheOption,
    ConfigOption,
    ListenOption,
    LogFormatOption,
    MaxSizeOption,
    OfflineOption,
    UpstreamOption,
    failures_told,
)
from mirror.cli.programs import Programs
from mirror.config import read_settings

_Repair = Annotated[
    bool, typer.Option("--repair", help="Fetch what is damaged from its upstream again, rather than remove it.")
]
_Jobs = Annotated[int, typer.Option(metavar="N", min=1, max=64, help="How many blobs to read at once.")]


def add_serving(app: typer.Typer, programs: Programs) -> None:
    """Adds the commands to *app*."""

    @app.command("serve")
    def _serve(
        config: ConfigOption = None,
        listen: ListenOption = None,
        cache: CacheOption = None,
        max_size: MaxSizeOption = None,
        upstream: UpstreamOption = None,
        offline: OfflineOption = None,
        log_format: LogFormatOption = None,
    ) -> None:
        """Serve pulls, from the cache or through it. Works without any configuration."""
        flags: dict[str, Mapping[str, object]] = {
            "server": {"listen": listen, "offline": offline},
            "cache": {"path": cache, "max_size": max_size},
            "log": {"format": log_format},
        }
        with failures_told():
            programs.serve(read_settings(config, flags, upstream or []))

    @app.command("verify")
    def _verify(
        config: ConfigOption = None,
        cache: CacheOption = None,
        upstream: UpstreamOption = None,
        repair: _Repair = False,
        jobs: _Jobs = 2,
    ) -> None:
        """Read all that is cached and see whether the disk has damaged it. Works beside a running mirror.

        What is damaged is removed, so that it is fetched anew when it is pulled next.

        Exit status: 0 all is good, 1 damage was found (removed, or fetched again), 2 it could not be done, 130 stopped.
        """
        with failures_told():
            findings = programs.verify(
                read_settings(config, {"cache": {"path": cache}}, upstream or []), repair=repair, jobs=jobs
            )
        typer.echo(findings)
        if not findings.is_whole:
            raise typer.Exit(INTERRUPTED)
        if not findings.is_good:
            raise typer.Exit(INCOMPLETE)
