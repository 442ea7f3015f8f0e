"""How far something has come: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

_EVERY = 10.0  # seconds between two plain lines
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


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
                self.say(f"{self._what}: {sized(self._done)} of {sized(self._total)}, {sized(pace)}/s, {left} s left")

    def say(self, line: str) -> None:
        """A line for whoever watches, above the bar."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - this is where it belongs


def counted(number: int, noun: str) -> str:
    """So many of them: 1 image, 2 images."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def sized(size: float) -> str:
    """Bytes as people read them: 3.2 GiB."""
    power = 0
    while size >= 1024 and power < len(_UNITS) - 1:
        size /= 1024
        power += 1
    return f"{size:.1f} {_UNITS[power]}" if power else f"{int(size)} B"
