"""`mirror warm`: images brought into the cache."""

from __future__ import annotations

from typing import Annotated

import typer

from mirror.cli.options import (
    INCOMPLETE,
    CacheOption,
    ConfigOption,
    FromOption,
    ImagesArgument,
    UpstreamOption,
    failures_told,
    named,
)
from mirror.cli.programs import Programs
from mirror.config import read_settings
from mirror.control import Control
from mirror.warmth import Warmth

_Platforms = Annotated[
    list[str] | None,
    typer.Option("--platform", metavar="OS/ARCH", help="Of an index: which platforms; repeatable (default: all)."),
]
_Pin = Annotated[bool, typer.Option("--pin", help="Keep the images from eviction.")]
_Jobs = Annotated[int, typer.Option(metavar="N", min=1, max=32, help="How many images at once.")]


def add_warming(app: typer.Typer, programs: Programs) -> None:
    """Adds the command to *app*."""

    @app.command("warm")
    def _warm(
        images: ImagesArgument = None,
        file: FromOption = None,
        platform: _Platforms = None,
        pin: _Pin = False,
        jobs: _Jobs = 2,
        config: ConfigOption = None,
        cache: CacheOption = None,
        upstream: UpstreamOption = None,
    ) -> None:
        """Bring images into the cache without a client, signatures and SBOMs included.

        IMAGE is a name as docker takes it, or means several: app:v1.* (all that match), app:v1.*=3 (the three newest),
        app:latest-semver (the newest release).

        Exit status: 0 all are here, 1 some are not, 2 it could not be done, 130 stopped.
        """
        with failures_told():
            names = named(images, file)
            settings = read_settings(config, {"cache": {"path": cache}}, upstream or [])
            warmth = Warmth()

            async def job(control: Control) -> None:
                platforms = None if platform in (None, ["all"]) else platform
                wanted = {"images": names, "platforms": platforms, "pin": pin, "jobs": jobs}
                async with control.lines("/warm", **wanted) as lines:
                    with warmth:
                        async for line in lines:
                            warmth.take(line)

            programs.ask(settings, job)
        typer.echo(warmth.summary)
        if warmth.failures:
            raise typer.Exit(INCOMPLETE)
