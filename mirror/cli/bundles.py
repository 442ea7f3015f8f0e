"""`mirror export` and `mirror import`: carry images to another mirror in bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from mirror.cli.options import (
    CONTINUES,
    FILE,
    INCOMPLETE,
    cache_option,
    config_option,
    from_option,
    images_argument,
    print_failures,
    terminable,
)
from mirror.errors import ConfigurationInvalid


@click.command("export")
@click.option("--output", "-o", required=True, type=FILE, metavar="BUNDLE", help="The file to write.")
@images_argument
@from_option
@click.option("--pinned", is_flag=True, help="Export all pinned images.")
@click.option("--all", "all_", is_flag=True, help="Export all images of the cache.")
@click.option(
    "--since", type=FILE, metavar="BUNDLE", help="Leave out the blobs of this earlier bundle (or of its .json file)."
)
@click.option("--split", metavar="SIZE", help="Split the bundle into parts of at most SIZE, such as 4GiB for FAT32.")
@config_option
@cache_option
def export_command(
    output: Path,
    images: tuple[str, ...],
    file: Path | None,
    pinned: bool,
    all_: bool,
    since: Path | None,
    split: str | None,
    config: Path | None,
    cache: Path | None,
) -> None:
    """Write images of the cache into a bundle.

    A bundle is an OCI image layout in a tar file, for `mirror import` or skopeo. The command also writes BUNDLE.json, a
    list of the contents. Keep it for the next --since.

    Exit status: 0 the bundle is written, 2 the export failed, 130 stopped; there is no bundle then.
    """
    with print_failures(stopped="there is no bundle"), terminable():
        from mirror.admin.protocol import ImageSelection
        from mirror.cli.cache_directory import settings_of_cache
        from mirror.cli.sync import named_images
        from mirror.cli.transfers import export_images

        which: Literal["all", "pinned"] | None = "all" if all_ else "pinned" if pinned else None
        names = [] if which is not None and not images and file is None else named_images(images, file)
        selection = ImageSelection(images=tuple(names), which=which)
        summary = export_images(settings_of_cache(config, cache), selection, output, since=since, split=split)
    click.echo(summary)


@click.command("import")
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True, type=FILE)
@click.option("--name", metavar="IMAGE", help="Name of the image, for an archive that contains none.")
@config_option
@cache_option
def import_command(bundles: tuple[Path, ...], name: str | None, config: Path | None, cache: Path | None) -> None:
    """Import images from bundles, and pin them.

    BUNDLE is a file, its first part (.001), or its name without that suffix: a bundle, a `docker save` archive, or an
    OCI layout in a tar file or directory. All content is verified, and an image becomes visible only when it is
    complete. Content that the cache has is skipped, so that a stopped import continues where it was.

    Exit status: 0 all images are imported, 1 some failed, 2 the import could not run, 130 stopped.
    """
    with print_failures(stopped=CONTINUES):
        from mirror.cli.environment import settings_in_force
        from mirror.cli.transfers import import_bundles

        if name is not None and len(bundles) > 1:
            raise ConfigurationInvalid(
                f"--name applies to a single bundle, but {len(bundles)} were given: import the unnamed archive in a "
                f"separate command"
            )
        complete = import_bundles(settings_in_force(config, {"cache": {"path": cache}}, []), bundles, name)
    if not complete:
        raise click.exceptions.Exit(INCOMPLETE)
