"""`mirror ls`, `stats`, `pin`, `unpin`, `rm` and `gc`: list and change the images of the cache.

A running mirror executes these commands itself; otherwise the command opens the cache for as long as it takes.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from mirror.cli.options import cache_option, config_option, json_option, print_failures

_images_argument = click.argument("images", metavar="IMAGE...", nargs=-1, required=True)


@click.command("ls")
@json_option
@config_option
@cache_option
def ls_command(as_json: bool, config: Path | None, cache: Path | None) -> None:
    """List the images in the cache.

    SIZE is the stored size of the image, SHARED the part of it that other images also need, AGE the time since the
    upstream last confirmed the tag, USED the time since the last pull. A narrow terminal shows fewer columns.
    """
    with print_failures():
        from mirror.cli.cache_directory import run_on_cache
        from mirror.cli.image_table import print_table

        images = run_on_cache(config, cache, lambda client: client.images()).images
        if not as_json:
            print_table(images)
            return
    click.echo(json.dumps([image.model_dump(mode="json", by_alias=True) for image in images], indent=1))


@click.command("stats")
@json_option
@config_option
@cache_option
def stats_command(as_json: bool, config: Path | None, cache: Path | None) -> None:
    """Print the number of images and the size of the cache."""
    with print_failures():
        from mirror.cli.cache_directory import run_on_cache
        from mirror.config.quantities import format_count, format_size

        stats = run_on_cache(config, cache, lambda client: client.stats())
    if as_json:
        click.echo(json.dumps(stats.model_dump(mode="json"), indent=1))
    else:
        click.echo(
            f"{format_count(stats.images, 'image')}, {stats.pinned} pinned, {stats.incomplete} incomplete; "
            f"{format_count(stats.blobs, 'blob')}, {format_size(stats.bytes)} of {format_size(stats.max_size)}"
        )


@click.command("pin")
@_images_argument
@config_option
@cache_option
def pin_command(images: tuple[str, ...], config: Path | None, cache: Path | None) -> None:
    """Keep images from eviction.

    IMAGE is a name or a pattern (app:v1.*, quay.io/*).
    """
    with print_failures():
        from mirror.admin.protocol import ImageSelection
        from mirror.cli.cache_directory import run_on_cache

        pinned = run_on_cache(config, cache, lambda client: client.pin(ImageSelection(images=images)))
    for name in pinned.images:
        click.echo(f"{name}: pinned")


@click.command("unpin")
@_images_argument
@config_option
@cache_option
def unpin_command(images: tuple[str, ...], config: Path | None, cache: Path | None) -> None:
    """Allow images to be evicted again.

    IMAGE is a name or a pattern (app:v1.*, quay.io/*).
    """
    with print_failures():
        from mirror.admin.protocol import ImageSelection
        from mirror.cli.cache_directory import run_on_cache

        unpinned = run_on_cache(config, cache, lambda client: client.unpin(ImageSelection(images=images)))
    for name in unpinned.images:
        click.echo(f"{name}: unpinned")


@click.command("rm")
@_images_argument
@config_option
@cache_option
def rm_command(images: tuple[str, ...], config: Path | None, cache: Path | None) -> None:
    """Remove images, and the blobs that only they need.

    IMAGE is a name or a pattern (app:v1.*, quay.io/*).
    """
    with print_failures():
        from mirror.admin.protocol import ImageSelection
        from mirror.cli.cache_directory import run_on_cache
        from mirror.config.quantities import format_size

        removed = run_on_cache(config, cache, lambda client: client.remove(ImageSelection(images=images)))
    for name in removed.images:
        click.echo(f"{name}: removed")
    click.echo(f"{format_size(removed.freed)} freed")


@click.command("gc")
@config_option
@cache_option
def gc_command(config: Path | None, cache: Path | None) -> None:
    """Remove blobs that no image needs.

    Such as the blobs that a tag named before it moved.
    """
    with print_failures():
        from mirror.cli.cache_directory import run_on_cache
        from mirror.config.quantities import format_size

        collected = run_on_cache(config, cache, lambda client: client.collect())
    click.echo(f"{format_size(collected.freed)} freed")
