"""`mirror warm`: images brought into the cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mirror.admin.client import AdminClient
from mirror.airgap.sync import Sync
from mirror.cli.options import (
    INCOMPLETE,
    CacheOption,
    ConfigOption,
    FromOption,
    ImagesArgument,
    UpstreamOption,
    failures_told,
    named,
    terminable,
)
from mirror.cli.programs import Programs
from mirror.cli.progress import WarmProgress
from mirror.cli.sync import Syncing, warmed
from mirror.config import Settings, read_settings
from mirror.errors import ConfigurationInvalid

_Platforms = Annotated[
    list[str] | None,
    typer.Option("--platform", metavar="OS/ARCH", help="Of an index: which platforms; repeatable (default: all)."),
]
_Pin = Annotated[bool, typer.Option("--pin", help="Keep the images from eviction.")]
_Jobs = Annotated[int, typer.Option(metavar="N", min=1, max=32, help="How many images at once.")]
_Watch = Annotated[bool, typer.Option("--watch", help="Go on, and warm again as the sync file's schedules say.")]


def add_warming(app: typer.Typer, programs: Programs) -> None:
    """Adds the command to *app*."""

    @app.command("warm")
    def _warm(
        images: ImagesArgument = None,
        file: FromOption = None,
        platform: _Platforms = None,
        pin: _Pin = False,
        jobs: _Jobs = 2,
        watch: _Watch = False,
        config: ConfigOption = None,
        cache: CacheOption = None,
        upstream: UpstreamOption = None,
    ) -> None:
        """Bring images into the cache without a client, signatures and SBOMs included.

        IMAGE is a name as docker takes it, or means several: app:v1.* (all that match), app:v1.*=3 (the three newest),
        app:latest-semver (the newest release). A sync file (--from sync.toml) says all of this for several lists, when
        they are due, and where bundles of what is new go; config/sync.toml shows every key.

        Exit status: 0 all are here, 1 some are not, 2 it could not be done, 130 stopped.
        """
        with failures_told(), terminable():
            settings = read_settings(config, {"cache": {"path": cache}}, upstream or [])
            if file is not None and file.suffix == ".toml":
                complete = _sync(programs, settings, file, jobs, watch, said=bool(images or platform or pin))
            elif watch:
                raise ConfigurationInvalid("--watch needs schedules: --from a sync file (.toml) that has them")
            else:
                complete = _once(programs, settings, named(images, file), platform, pin=pin, jobs=jobs)
        if not complete:
            raise typer.Exit(INCOMPLETE)


def _once(
    programs: Programs, settings: Settings, names: Sequence[str], platform: list[str] | None, *, pin: bool, jobs: int
) -> bool:
    """Whether all are here."""
    warmth = WarmProgress()

    async def job(control: AdminClient) -> None:
        await warmed(control, warmth, names, None if platform in (None, ["all"]) else platform, pin=pin, jobs=jobs)

    programs.ask(settings, job)
    typer.echo(warmth.summary)
    return not warmth.failures


def _sync(programs: Programs, settings: Settings, file: Path, jobs: int, watch: bool, *, said: bool) -> bool:
    """Whether all are here, after one round; watching ends only when it is stopped."""
    if said:
        raise ConfigurationInvalid(f"{file} says which images, platforms and pins: leave them out of the command line")
    syncing = Syncing(programs, settings, Sync.read(file), jobs)
    if watch:
        syncing.watch()
    return not syncing.round(range(len(syncing.sync.entries)))
