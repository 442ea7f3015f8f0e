"""Schedules of `mirror warm --watch`: when an entry of a sync file is due next, in local wall-clock time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from mirror.config import parse_duration

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_AT = re.compile(rf"(?:({'|'.join(_DAYS)}) )?([01][0-9]|2[0-3]):([0-5][0-9])")
_RETRY_DELAY = 300.0  # seconds after the first failure; doubles with each further one
_MIN_INTERVAL, _MAX_INTERVAL = 1.0, 366 * 86400.0  # seconds


@dataclass(frozen=True, slots=True)
class Every:
    """A fixed interval in seconds. The first run is due at once."""

    seconds: float

    def after(self, moment: datetime) -> datetime:
        return moment + timedelta(seconds=self.seconds)


@dataclass(frozen=True, slots=True)
class At:
    """A time of day, daily or on one day of the week (0 is Monday)."""

    hour: int
    minute: int
    weekday: int | None = None

    def after(self, moment: datetime) -> datetime:
        due = moment.replace(hour=self.hour, minute=self.minute, second=0, microsecond=0)
        while due <= moment or (self.weekday is not None and due.weekday() != self.weekday):
            due += timedelta(days=1)
        return due


Schedule = Every | At


def parse_schedule(every: str | None, at: str | None) -> Schedule | None:
    """Parse `every = "12h"` or `at = "Sun 03:00"`. Return None if both are None.

    Raises:
        ValueError: if both are set, or one is invalid.
    """
    if every is not None and at is not None:
        raise ValueError("every and at are two schedules: remove one of them")
    if every is not None:
        seconds = parse_duration(every)
        if not _MIN_INTERVAL <= seconds <= _MAX_INTERVAL:
            raise ValueError(f"every {every}: must be between a second and a year")
        return Every(seconds)
    if at is None:
        return None
    found = _AT.fullmatch(at)
    if found is None:
        raise ValueError(f'at {at[:40]!r}: set a time, such as "03:00", or a day and a time, such as "Sun 03:00"')
    return At(int(found[2]), int(found[3]), None if found[1] is None else _DAYS.index(found[1]))


def first_due(schedule: Schedule, now: datetime) -> datetime:
    return now if isinstance(schedule, Every) else schedule.after(now)


def next_due(schedule: Schedule, now: datetime, *, failures: int) -> datetime:
    """Return the next due time after a run at *now*. After *failures* in a row, a retry may be due earlier."""
    due = schedule.after(now)
    if not failures:
        return due
    return min(due, now + timedelta(seconds=_RETRY_DELAY * 2 ** min(failures - 1, 20)))
