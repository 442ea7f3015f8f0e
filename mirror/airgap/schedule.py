"""Schedules: when something is due again, in local time as a clock on the wall shows it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from mirror.config import parse_duration

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_AT = re.compile(rf"(?:({'|'.join(_DAYS)}) )?([01][0-9]|2[0-3]):([0-5][0-9])")
_AGAIN = 300.0  # seconds until what failed is tried again; twice as many each time
_SHORTEST, _LONGEST = 1.0, 366 * 86400.0


@dataclass(frozen=True, slots=True)
class Every:
    """Again after so many seconds; at once, the first time."""

    seconds: float

    def after(self, moment: datetime) -> datetime:
        return moment + timedelta(seconds=self.seconds)


@dataclass(frozen=True, slots=True)
class At:
    """At this time of the day, or of one day of the week (0 is Monday)."""

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
    """What `every = "12h"` or `at = "Sun 03:00"` mean; None where there is neither.

    Raises:
        ValueError: there are both, or one makes no sense.
    """
    if every is not None and at is not None:
        raise ValueError("every and at are two schedules: leave one of them out")
    if every is not None:
        seconds = parse_duration(every)
        if not _SHORTEST <= seconds <= _LONGEST:
            raise ValueError(f"every {every}: from a second to a year")
        return Every(seconds)
    if at is None:
        return None
    found = _AT.fullmatch(at)
    if found is None:
        raise ValueError(f'at {at[:40]!r}: write a time, such as "03:00", or a day and a time, such as "Sun 03:00"')
    return At(int(found[2]), int(found[3]), None if found[1] is None else _DAYS.index(found[1]))


def first_due(schedule: Schedule, now: datetime) -> datetime:
    return now if isinstance(schedule, Every) else schedule.after(now)


def next_due(schedule: Schedule, now: datetime, *, failures: int) -> datetime:
    """When it is due after it was done at *now*; what failed so many times in a row is tried again before long."""
    due = schedule.after(now)
    if not failures:
        return due
    return min(due, now + timedelta(seconds=_AGAIN * 2 ** min(failures - 1, 20)))
