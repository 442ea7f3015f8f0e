"""The work of `mirror warm`: warm images once, or follow the schedules and exports of a sync file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import click

from mirror.admin.client import AdminClient
from mirror.admin.protocol import ImageSelection, WarmRequest
from mirror.airgap.bundle_chain import BundleChain
from mirror.airgap.exporting import contents_of
from mirror.airgap.schedule import first_due, next_due
from mirror.airgap.sync import Entry, Export, Sync, names_in
from mirror.assembly import cache_files
from mirror.cli.programs import run_with_client
from mirror.cli.progress import WarmProgress
from mirror.cli.transfers import write_bundle
from mirror.config import Settings
from mirror.errors import ConfigurationInvalid, MirrorError
from mirror.oci.platforms import Platform

_MAX_SLEEP = 60.0  # seconds; then the clock is read again, as it may have been set


def named_images(images: Sequence[str], file: Path | None) -> list[str]:
    """Return the image names of the command line and of the list *file*, each once.

    Raises:
        ConfigurationInvalid: if there are none.
    """
    names = [*images, *([] if file is None else names_in(file))]
    if not names:
        raise ConfigurationInvalid("no image is named: give image names, or a list with --from FILE")
    return list(dict.fromkeys(names))


def warm_once(settings: Settings, names: Sequence[str], platforms: Sequence[str], *, pin: bool, jobs: int) -> bool:
    """Warm images, and return whether all of them are in the cache.

    Args:
        platforms: platforms of multi-platform images; none of them, or "all", for all.

    Raises:
        MirrorError: if nothing could be warmed.
    """
    every = not platforms or list(platforms) == ["all"]
    progress, request = WarmProgress(), _request(names, None if every else platforms, pin, jobs)
    run_with_client(settings, lambda client: _warm(client, progress, request))
    click.echo(progress.summary)
    return not progress.failures


def _request(names: Sequence[str], platforms: Sequence[str] | None, pin: bool, jobs: int) -> WarmRequest:
    parsed = None if platforms is None else tuple(map(Platform.parse, platforms))
    return WarmRequest(images=tuple(names), platforms=parsed, pin=pin, jobs=jobs)


async def _warm(client: AdminClient, progress: WarmProgress, request: WarmRequest) -> None:
    async with client.warm(request) as updates:
        with progress:
            async for update in updates:
                progress.show(update)


class SyncRun:
    """Follows a sync file. Each round connects to the mirror again, as one may have been started or stopped."""

    def __init__(self, settings: Settings, sync: Sync, jobs: int) -> None:
        self._settings = settings
        self._sync = sync
        self._jobs = jobs

    @classmethod
    def of_file(cls, settings: Settings, file: Path, jobs: int) -> SyncRun:
        """Read the sync file *file*, and return the run that follows it.

        Raises:
            ListInvalid: if the sync file can't be read, or a key is wrong.
        """
        return cls(settings, Sync.read(file), jobs)

    def run_all(self) -> bool:
        """Run one round of all entries, and return whether all images are in the cache.

        Raises:
            MirrorError: if the round could not run.
        """
        return not self._run(range(len(self._sync.entries)))

    def watch(self) -> NoReturn:
        """Run the entries whenever they are due, until a signal stops the command.

        Raises:
            ConfigurationInvalid: if an entry has no schedule.
        """
        schedules = [entry.schedule for entry in self._sync.entries if entry.schedule is not None]
        if len(schedules) < len(self._sync.entries):
            lacking = next(at for at, entry in enumerate(self._sync.entries, start=1) if entry.schedule is None)
            raise ConfigurationInvalid(
                f'--watch: [[images]] number {lacking} has no schedule: set every = "1d" or at = "Sun 03:00" in it, or '
                f"at the top of the file for all of them"
            )
        due = [first_due(schedule, _now()) for schedule in schedules]
        failures = [0] * len(schedules)
        while True:
            _sleep_until(min(due))
            now = [number for number, moment in enumerate(due) if moment <= _now()]
            failed = self._try(now)
            for number in now:
                failures[number] = failures[number] + 1 if number in failed else 0
                due[number] = next_due(schedules[number], _now(), failures=failures[number])
            click.echo(f"next at {min(due):%a %Y-%m-%d %H:%M:%S}", err=True)

    def _try(self, numbers: Sequence[int]) -> set[int]:
        """Run entries, and return the numbers of those that failed; an error fails all of them until the next round."""
        try:
            return self._run(numbers)
        except MirrorError as error:
            click.echo(f"mirror: {error}", err=True)
            return set(numbers)

    def _run(self, numbers: Iterable[int]) -> set[int]:
        return run_with_client(self._settings, lambda client: self._round(client, numbers))

    async def _round(self, client: AdminClient, numbers: Iterable[int]) -> set[int]:
        """Warm entries, export what is new of them, and return the numbers of entries with images that failed."""
        failed, present = set[int](), dict[str, None]()
        for number in numbers:
            progress = await self._warm_entry(client, self._sync.entries[number])
            if progress is None or progress.failures:
                failed.add(number)
            if progress is not None:
                present |= dict.fromkeys(progress.present)
        if self._sync.export is not None and present:
            click.echo(await self._export(client, self._sync.export, list(present)))
        return failed

    async def _warm_entry(self, client: AdminClient, entry: Entry) -> WarmProgress | None:
        """Warm the images of one entry; None if its list of images can't be read."""
        try:
            names = entry.names()
        except MirrorError as error:
            click.echo(f"mirror: {error}", err=True)
            return None
        progress = WarmProgress()
        await _warm(client, progress, _request(names, entry.platforms, entry.pin, self._jobs))
        click.echo(progress.summary)
        return progress

    async def _export(self, client: AdminClient, export: Export, names: Sequence[str]) -> str:
        chain = BundleChain.at(export.directory, export.name)
        contents = await contents_of(client, ImageSelection(images=tuple(names)), known=chain.known)
        if not chain.adds(contents):
            return f"nothing new since the last bundle in {export.directory}"
        return await write_bundle(client, cache_files(self._settings.cache.path), contents, chain.target, export.split)


def _now() -> datetime:
    return datetime.now()  # noqa: DTZ005 - schedules are in local time


def _sleep_until(moment: datetime) -> None:
    while (left := (moment - _now()).total_seconds()) > 0:
        time.sleep(min(left, _MAX_SLEEP))
