"""`mirror warm`: download images into the cache before a client pulls them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from mirror.admin import MAX_WARM_JOBS
from mirror.cli.options import (
    CONTINUES,
    INCOMPLETE,
    cache_option,
    config_option,
    from_option,
    images_argument,
    print_failures,
    terminable,
    upstream_option,
)
from mirror.errors import ConfigurationInvalid


@click.command("warm")
@images_argument
@from_option
@click.option(
    "--platform",
    "platforms",
    multiple=True,
    metavar="OS/ARCH",
    help="Platform of multi-platform images to download; repeatable (default: all).",
)
@click.option("--pin", is_flag=True, help="Keep the images from eviction.")
@click.option(
    "--jobs",
    type=click.IntRange(1, MAX_WARM_JOBS),
    default=2,
    show_default=True,
    metavar="N",
    help="Number of images to download at the same time.",
)
@click.option("--watch", is_flag=True, help="Keep running, and warm again as the sync file schedules it.")
@config_option
@cache_option
@upstream_option
def warm_command(
    images: tuple[str, ...],
    file: Path | None,
    platforms: tuple[str, ...],
    pin: bool,
    jobs: int,
    watch: bool,
    config: Path | None,
    cache: Path | None,
    upstreams: tuple[str, ...],
) -> None:
    """Download images into the cache.

    Signatures and SBOMs are included.

    IMAGE is a name as docker writes it, or a pattern of tags: app:v1.* (all that match), app:v1.*=3 (the three newest
    versions), app:latest-semver (the newest release). A sync file (--from sync.toml) contains several lists of images,
    their schedules, and where to export bundles of new content; config/sync.toml shows every key.

    Exit status: 0 all images are in the cache, 1 some failed, 2 the command could not run, 130 stopped.
    """
    with print_failures(stopped=CONTINUES), terminable():
        from mirror.cli.environment import settings_in_force
        from mirror.cli.sync import SyncRun, named_images, warm_once

        settings = settings_in_force(config, {"cache": {"path": cache}}, list(upstreams))
        if file is not None and file.suffix == ".toml":
            _require_none_of(file, {"IMAGE": images, "--platform": platforms, "--pin": pin})
            sync = SyncRun.of_file(settings, file, jobs)
            complete = sync.watch() if watch else sync.run_all()
        elif watch:
            raise ConfigurationInvalid("--watch needs a sync file (.toml) with schedules: name it with --from")
        else:
            complete = warm_once(settings, named_images(images, file), platforms, pin=pin, jobs=jobs)
    if not complete:
        raise click.exceptions.Exit(INCOMPLETE)


def _require_none_of(file: Path, arguments: Mapping[str, object]) -> None:
    """Raise ConfigurationInvalid if the command line has any of *arguments*, which the sync file sets."""
    given = " and ".join(name for name, value in arguments.items() if value)
    if given:
        raise ConfigurationInvalid(
            f"the sync file {file} sets images, platforms and pins: remove {given} from the command line"
        )
