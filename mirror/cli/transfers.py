"""The work of `mirror export` and `mirror import`, with progress on standard error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mirror.admin.client import AdminClient
from mirror.admin.protocol import ImageSelection
from mirror.airgap.contents import Contents
from mirror.airgap.exporting import contents_of, export_bundle, known_from, require_apart
from mirror.airgap.importing import Imported, import_bundle
from mirror.airgap.sync import SMALLEST_PART
from mirror.airgap.unpack import UnpackDirectory
from mirror.assembly import cache_files
from mirror.cli.programs import run_with_client
from mirror.cli.progress import Progress
from mirror.config import Settings, parse_size
from mirror.config.quantities import format_count, format_size
from mirror.errors import ConfigurationInvalid
from mirror.oci.digest import Digest
from mirror.storage.protocols import CacheFiles


def export_images(
    settings: Settings, selection: ImageSelection, output: Path, *, since: Path | None, split: str | None
) -> str:
    """Export images of the cache to the bundle *output*, and return a summary in one line.

    Raises:
        MirrorError: if an image is incomplete, or the bundle can't be written.
    """
    limit = _part_size(split)
    known = frozenset[Digest]()
    if since is not None:
        known = known_from(since)
        require_apart(output, since)

    async def export(client: AdminClient) -> str:
        contents = await contents_of(client, selection, known=known)
        return await write_bundle(client, cache_files(settings.cache.path), contents, output, limit)

    return run_with_client(settings, export)


def import_bundles(settings: Settings, bundles: Sequence[Path], name: str | None) -> bool:
    """Import bundles, and return whether all of their images were imported.

    Raises:
        MirrorError: if a bundle can't be read; later bundles are not imported then.
    """
    failed: list[Imported] = []

    async def import_all(client: AdminClient) -> None:
        unpack_directory = UnpackDirectory(settings.cache.path, settings.cache.min_free)
        for bundle in bundles:
            failed.extend(await _import(client, bundle, name, unpack_directory))

    run_with_client(settings, import_all)
    return not failed


async def write_bundle(
    client: AdminClient, files: CacheFiles, contents: Contents, output: Path, limit: int | None
) -> str:
    """Write a bundle with a progress bar, and return a summary in one line."""
    total = sum(blob.size for blob in contents.blobs if blob.included)
    with Progress("exported", total) as progress:
        written = await export_bundle(client, files, contents, output, limit=limit, on_progress=progress.advance)
    left_out = sum(not blob.included for blob in contents.blobs)
    parts = ", ".join(part.name for part in written.parts)
    images = sum(not image.attached for image in contents.images)
    return f"{format_count(images, 'image')}, {format_size(total)}, {format_count(left_out, 'blob')} left out: {parts}"


async def _import(
    client: AdminClient, bundle: Path, name: str | None, unpack_directory: UnpackDirectory
) -> list[Imported]:
    """Import one bundle, print the outcome of each image, and return those that failed."""
    failed = []
    with Progress(f"{bundle.name} imported", 0) as progress:
        unpack_directory = replace(unpack_directory, on_message=lambda line: progress.say(f"{bundle}: {line}"))
        outcomes = import_bundle(
            bundle,
            client,
            name=name,
            unpack_directory=unpack_directory,
            on_total=progress.expect,
            on_progress=progress.advance,
        )
        async for imported in outcomes:
            if imported.failure is not None or not imported.image.attached:
                moved = "" if imported.was is None else f" (tag moved from {imported.was} to {imported.image.digest})"
                progress.say(f"{imported.image.name}: {imported.failure or f'imported{moved}'}")
            if imported.failure is not None:
                failed.append(imported)
    return failed


def _part_size(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        size = parse_size(text)
    except ValueError as error:
        raise ConfigurationInvalid(f"--split {text!r}: {error}") from error
    if size < SMALLEST_PART:
        raise ConfigurationInvalid(f"--split {text!r}: a part must have at least 1MiB: choose a larger size")
    return size
