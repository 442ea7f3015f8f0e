"""Progress on standard error: bars on a terminal, a plain line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from mirror.admin.protocol import ImageFailed, ImageProgress, ImageWarmed, WarmUpdate
from mirror.config.quantities import format_count, format_size

_INTERVAL = 10.0  # seconds between two plain lines


class Progress:
    """The progress of one operation, shown while its context is open. Threads may call it."""

    def __init__(self, label: str, total: int) -> None:
        """
        Args:
            total: bytes of the whole operation.
        """
        self._label = label
        self._total = total
        self._done = 0
        self._started = self._printed = time.monotonic()
        self._lock = threading.Lock()
        self._bar: Bar | None = None
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
            self._bar = Bar(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=Console(stderr=True))
            self._task = self._bar.add_task(label, total=total)

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
        """Set the number of bytes of the whole operation."""
        self._total = total
        if self._bar is not None:
            self._bar.update(self._task, total=total)

    def advance(self, size: int) -> None:
        """Add *size* bytes to those that are done."""
        with self._lock:
            self._done += size
            if self._bar is not None:
                self._bar.advance(self._task, size)
            elif time.monotonic() > self._printed + _INTERVAL:
                self._printed = time.monotonic()
                rate = self._done / (self._printed - self._started)
                left = round((self._total - self._done) / rate) if rate else 0
                self.say(
                    f"{self._label}: {format_size(self._done)} of {format_size(self._total)}, "
                    f"{format_size(rate)}/s, {left} s left"
                )

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - progress is for the terminal


class WarmProgress:
    """The progress of one warm request: a bar for each image, and the outcome of each.

    Attributes:
        failures: the reason for each image that failed.
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

    def show(self, update: WarmUpdate) -> None:
        """Show one update of the mirror."""
        match update:
            case ImageProgress(image=name, total=total, present=present):
                self._draw(name, total, present)
            case ImageWarmed(image=name, total=total, stale=stale):
                self._draw(name, total, total)
                self._sizes[name] = total
                note = "" if stale is None else f"; possibly outdated, the upstream could not confirm it: {stale}"
                self._print(f"{name}: cached, {format_size(total)}{note}")
            case ImageFailed(image=name, error=reason):
                self.failures[name] = reason
                self._sizes.pop(name, None)
                self._print(f"{name}: {reason}")

    def _draw(self, name: str, total: int, present: int) -> None:
        if self._bars is None:
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=None)
        self._bars.update(self._tasks[name], total=total or None, completed=present)
        tasks = [task for task in self._bars.tasks if task.id != self._all]
        self._bars.update(
            self._all, total=sum(task.total or 0 for task in tasks), completed=sum(task.completed for task in tasks)
        )

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    @property
    def present(self) -> list[str]:
        """The images that are in the cache now."""
        return list(self._sizes)

    @property
    def summary(self) -> str:
        """One line about all images."""
        failed = f", {len(self.failures)} failed: {', '.join(self.failures)}" if self.failures else ""
        return f"{format_count(len(self._sizes), 'image')} cached, {format_size(sum(self._sizes.values()))}{failed}"
