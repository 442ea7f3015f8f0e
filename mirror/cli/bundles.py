"""`mirror export` and `mirror import`: images carried over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mirror.admin.client import AdminClient
from mirror.airgap.contents import Contents
from mirror.airgap.exporting import check_apart, contents_of, export_bundle, known_from
from mirror.airgap.importing import Imported, import_bundle
from mirror.airgap.sync import SMALLEST_PART
from mirror.airgap.unpack import UnpackDirectory
from mirror.cli.cache_directory import settings_of_cache
from mirror.cli.options import (
    INCOMPLETE,
    CacheOption,
    ConfigOption,
    FromOption,
    ImagesArgument,
    failures_told,
    named,
    terminable,
)
from mirror.cli.programs import Programs
from mirror.cli.progress import Progress
from mirror.config import parse_size, read_settings
from mirror.config.quantities import format_count, format_size
from mirror.errors import ConfigurationInvalid
from mirror.oci.digest import Digest

_Bundle = Annotated[Path, typer.Option("--output", "-o", metavar="BUNDLE", help="The file to write.")]
_Since = Annotated[
    Path | None, typer.Option(metavar="BUNDLE", help="Leave out what this earlier bundle brought (or its .json).")
]
_Split = Annotated[str | None, typer.Option(metavar="SIZE", help="Parts of at most this size: 4GiB for FAT32.")]
_Pinned = Annotated[bool, typer.Option("--pinned", help="All images that are pinned.")]
_All = Annotated[bool, typer.Option("--all", help="All images that are here.")]
_Bundles = Annotated[list[Path], typer.Argument(metavar="BUNDLE", show_default=False)]
_Name = Annotated[str | None, typer.Option(metavar="IMAGE", help="The name for an image that the archive gives none.")]


def add_carrying(app: typer.Typer, programs: Programs) -> None:
    """Adds the commands to *app*."""

    @app.command("export")
    def _export(
        output: _Bundle,
        images: ImagesArgument = None,
        file: FromOption = None,
        pinned: _Pinned = False,
        all_: _All = False,
        since: _Since = None,
        split: _Split = None,
        config: ConfigOption = None,
        cache: CacheOption = None,
    ) -> None:
        """Write images of the cache into a bundle: an OCI image layout in a tar, for `mirror import` or skopeo.

        Beside it comes BUNDLE.json, the list of what is in it; keep that for the next --since.

        Exit status: 0 it is written, 2 it could not be done, 130 stopped; then there is no bundle.
        """
        with failures_told(stopped="there is no bundle"), terminable():
            which = "all" if all_ else "pinned" if pinned else None
            names = [] if which is not None and not images and file is None else named(images, file)
            settings = settings_of_cache(config, cache)
            limit = _part_size(split)
            known = frozenset[Digest]()
            if since is not None:
                known = known_from(since)
                check_apart(output, since)

            async def job(control: AdminClient) -> str:
                contents = await contents_of(control, names, which=which, known=known)
                return await exported(control, settings.cache.path, contents, output, limit)

            told = programs.ask(settings, job)
        typer.echo(told)

    @app.command("import")
    def _import(
        bundles: _Bundles,
        name: _Name = None,
        config: ConfigOption = None,
        cache: CacheOption = None,
    ) -> None:
        """Bring images in from bundles, `docker save` archives, OCI layouts in a tar or a directory; they are pinned.

        BUNDLE is the file, its first part (.001), or its name without that. Every byte is verified; an image is there
        when all of it is. What is here already is skipped, so that a stopped import goes on where it was.

        Exit status: 0 all images are here, 1 some are not, 2 it could not be done, 130 stopped.
        """
        failed: list[Imported] = []
        with failures_told():
            if name is not None and len(bundles) > 1:
                raise ConfigurationInvalid(f"--name is for the image of one bundle, and these are {len(bundles)}")
            settings = read_settings(config, {"cache": {"path": cache}}, [])

            async def job(control: AdminClient) -> None:
                unpack_directory = UnpackDirectory(settings.cache.path, settings.cache.min_free)
                for bundle in bundles:
                    await _import_one(control, bundle, name, unpack_directory, failed)

            programs.ask(settings, job)
        if failed:
            raise typer.Exit(INCOMPLETE)


async def exported(control: AdminClient, cache: Path, contents: Contents, output: Path, limit: int | None) -> str:
    """What an export came to, in a line. How far it is shows meanwhile."""
    total = sum(blob.size for blob in contents.blobs if blob.included)
    with Progress("exported", total) as progress:
        written = await export_bundle(control, cache, contents, output, limit=limit, on_progress=progress.advance)
    left = sum(not blob.included for blob in contents.blobs)
    parts = ", ".join(part.name for part in written.parts)
    images = sum(not image.attached for image in contents.images)
    return f"{format_count(images, 'image')}, {format_size(total)}, {format_count(left, 'blob')} left out: {parts}"


async def _import_one(
    control: AdminClient, bundle: Path, name: str | None, unpack_directory: UnpackDirectory, failed: list[Imported]
) -> None:
    with Progress(f"{bundle.name} imported", 0) as progress:
        unpack_directory = replace(unpack_directory, on_message=lambda line: progress.say(f"{bundle}: {line}"))
        done = import_bundle(
            bundle,
            control,
            name=name,
            unpack_directory=unpack_directory,
            on_total=progress.expect,
            on_progress=progress.advance,
        )
        async for imported in done:
            if imported.failure is not None or not imported.image.attached:
                moved = "" if imported.was is None else f", now {imported.image.digest}, was {imported.was}"
                progress.say(f"{imported.image.name}: {imported.failure or f'is here{moved}'}")
            if imported.failure is not None:
                failed.append(imported)


def _part_size(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        size = parse_size(text)
    except ValueError as error:
        raise ConfigurationInvalid(f"--split {text!r}: {error}") from error
    if size < SMALLEST_PART:
        raise ConfigurationInvalid(f"--split {text!r}: parts of less than 1MiB are too many")
    return size
