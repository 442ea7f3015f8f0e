"""How far something has come: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from mirror.config.quantities import format_count, format_size

_EVERY = 10.0  # seconds between two plain lines


class Progress:
    """Shown on standard error within its context. Threads may call it."""

    def __init__(self, what: str, total: int) -> None:
        """*total*: bytes."""
        self._what = what
        self._total = total
        self._done = 0
        self._began = self._said = time.monotonic()
        self._lock = threading.Lock()
        self._bar: Bar | None = None
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
            self._bar = Bar(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=Console(stderr=True))
            self._task = self._bar.add_task(what, total=total)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def expect(self, total: int) -> None:
        """It will be so many bytes in all."""
        self._total = total
        if self._bar is not None:
            self._bar.update(self._task, total=total)

    def advance(self, size: int) -> None:
        """So many bytes more are done."""
        with self._lock:
            self._done += size
            if self._bar is not None:
                self._bar.advance(self._task, size)
            elif time.monotonic() > self._said + _EVERY:
                self._said = time.monotonic()
                pace = self._done / (self._said - self._began)
                left = round((self._total - self._done) / pace) if pace else 0
                self.say(
                    f"{self._what}: {format_size(self._done)} of {format_size(self._total)}, "
                    f"{format_size(pace)}/s, {left} s left"
                )

    def say(self, line: str) -> None:
        """A line for whoever watches, above the bar."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - this is where it belongs


class WarmProgress:
    """What the lines of a warming come to.

    Attributes:
        failures: why, by the image that is not there.
    """

    def __init__(self) -> None:
        self.failures: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._tasks: dict[str, TaskID] = {}
        self._console = Console(stderr=True)
        self._bars: Bar | None = None
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
            self._bars = Bar(*columns, TransferSpeedColumn(), console=self._console)
            self._all = self._bars.add_task("all", total=0)

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def take(self, line: Mapping[str, object]) -> None:
        """Shows what a line of the answer says."""
        name = line.get("image")
        if not isinstance(name, str):
            return
        if isinstance(reason := line.get("error"), str):
            self.failures[name] = reason
            self._sizes.pop(name, None)
            self._say(f"{name}: {reason}")
            return
        total, here = line.get("total"), line.get("here")
        if isinstance(total, int) and isinstance(here, int):
            self._show(name, total, here)
        if line.get("done") is True:
            self._sizes[name] = total if isinstance(total, int) else 0
            stale = line.get("stale")
            note = f"; as it was before, upstream could not confirm it: {stale}" if isinstance(stale, str) else ""
            self._say(f"{name}: {format_size(self._sizes[name])} here{note}")

    def _show(self, name: str, total: int, here: int) -> None:
        if self._bars is None:
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=None)
        self._bars.update(self._tasks[name], total=total or None, completed=here)
        tasks = [task for task in self._bars.tasks if task.id != self._all]
        self._bars.update(
            self._all, total=sum(task.total or 0 for task in tasks), completed=sum(task.completed for task in tasks)
        )

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    @property
    def here(self) -> list[str]:
        """The images that are here now."""
        return list(self._sizes)

    @property
    def summary(self) -> str:
        """One line for the end."""
        failed = f", {len(self.failures)} failed: {', '.join(self.failures)}" if self.failures else ""
        return f"{format_count(len(self._sizes), 'image')} here, {format_size(sum(self._sizes.values()))}{failed}"
