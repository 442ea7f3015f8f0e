"""What a sync file says, done: once, or again and again as its schedules have it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NoReturn

import typer

from mirror.admin.client import AdminClient
from mirror.airgap.bundle_chain import BundleChain
from mirror.airgap.exporting import contents_of
from mirror.airgap.schedule import first_due, next_due
from mirror.airgap.sync import Export, Sync
from mirror.cli.bundles import exported
from mirror.cli.programs import Programs
from mirror.cli.progress import WarmProgress
from mirror.config import Settings
from mirror.errors import ConfigurationInvalid, MirrorError

_LONGEST_SLEEP = 60.0  # seconds; then the clock is read again, which may have been set


async def warmed(
    control: AdminClient,
    warmth: WarmProgress,
    names: Sequence[str],
    platforms: Sequence[str] | None,
    *,
    pin: bool,
    jobs: int,
) -> None:
    """Warms images, and shows how far that is."""
    wanted = {"images": list(names), "platforms": platforms, "pin": pin, "jobs": jobs}
    async with control.lines("/warm", **wanted) as lines:
        with warmth:
            async for line in lines:
                warmth.take(line)


class Syncing:
    """A sync file that is followed. Each round asks for the mirror anew: one may have been started or stopped."""

    def __init__(self, programs: Programs, settings: Settings, sync: Sync, jobs: int) -> None:
        self.sync = sync
        self._programs = programs
        self._settings = settings
        self._jobs = jobs

    def watch(self) -> NoReturn:
        """Rounds of what is due, until somebody stops it.

        Raises:
            ConfigurationInvalid: some images have no schedule.
        """
        schedules = [entry.schedule for entry in self.sync.entries if entry.schedule is not None]
        if len(schedules) < len(self.sync.entries):
            lacking = next(number for number, entry in enumerate(self.sync.entries) if entry.schedule is None)
            raise ConfigurationInvalid(
                f'--watch: images.{lacking} has no schedule: give it, or all of them, every = "1d" or at = "Sun 03:00"'
            )
        due = [first_due(schedule, _now()) for schedule in schedules]
        failures = [0] * len(schedules)
        while True:
            _sleep_until(min(due))
            now = [number for number, moment in enumerate(due) if moment <= _now()]
            failed = self._tried(now)
            for number in now:
                failures[number] = failures[number] + 1 if number in failed else 0
                due[number] = next_due(schedules[number], _now(), failures=failures[number])
            typer.echo(f"next at {min(due):%a %Y-%m-%d %H:%M:%S}", err=True)

    def _tried(self, numbers: Sequence[int]) -> set[int]:
        try:
            return self.round(numbers)
        except MirrorError as error:  # the next round may find it mended
            typer.echo(f"mirror: {error}", err=True)
            return set(numbers)

    def round(self, numbers: Iterable[int]) -> set[int]:
        """Warms the entries of these numbers, and exports what is new of them; which of them could not be had whole.

        Raises:
            MirrorError: it could not be done at all.
        """
        return self._programs.ask(self._settings, lambda control: self._round(control, numbers))

    async def _round(self, control: AdminClient, numbers: Iterable[int]) -> set[int]:
        failed, here = set[int](), dict[str, None]()
        for number in numbers:
            entry, warmth = self.sync.entries[number], WarmProgress()
            try:
                names = entry.names()
            except MirrorError as error:
                typer.echo(f"mirror: {error}", err=True)
                failed.add(number)
                continue
            await warmed(control, warmth, names, entry.platforms, pin=entry.pin, jobs=self._jobs)
            typer.echo(warmth.summary)
            here |= dict.fromkeys(warmth.here)
            if warmth.failures:
                failed.add(number)
        if self.sync.export is not None and here:
            typer.echo(await self._exported(control, self.sync.export, list(here)))
        return failed

    async def _exported(self, control: AdminClient, export: Export, names: Sequence[str]) -> str:
        chain = BundleChain.at(export.directory, export.name)
        contents = await contents_of(control, names, which=None, known=chain.known)
        if not chain.adds(contents):
            return f"nothing is new since the last bundle in {export.directory}"
        return await exported(control, self._settings.cache.path, contents, chain.target, export.split)


def _now() -> datetime:
    return datetime.now()  # noqa: DTZ005 - schedules are in local time


def _sleep_until(moment: datetime) -> None:
    while (left := (moment - _now()).total_seconds()) > 0:
        time.sleep(min(left, _LONGEST_SLEEP))
