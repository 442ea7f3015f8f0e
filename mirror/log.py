"""Events: structured, one line each, on standard error.

Rendered at once and written by a thread of its own, in batches: a busy mirror is not slowed by its log, nor stopped
by a reader of it that hangs.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import time
from collections import deque
from typing import TextIO

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

from mirror.config import LogSettings

_GATHERING = 0.05  # seconds in which lines gather to be written together
_MOST_WAITING = 100_000  # lines, about 30 MiB; what comes on top is dropped, and counted
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Sets the log up for the whole program."""
    stream = stream or sys.stderr
    lines = _Lines(stream)
    console = settings.format == "console" or (settings.format == "auto" and stream.isatty())
    structlog.configure(
        processors=[
            _Stamp(),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)
            if console
            else _render_json,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.level]),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )


class _Stamp:
    """Adds level and time (RFC 3339, UTC, milliseconds). The seconds' part is rendered once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._rendered = ""

    def __call__(self, _logger: WrappedLogger, level: str, event: EventDict) -> EventDict:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second, self._rendered = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        event["level"] = level
        event["timestamp"] = f"{self._rendered}.{int(now % 1 * 1000):03d}Z"
        return event


def _render_json(_logger: WrappedLogger, _level: str, event: EventDict) -> str:
    return orjson.dumps(event, default=repr).decode()


class _Lines:
    """Lines on their way to the stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._waiting: deque[str] = deque()
        self._dropped = 0
        self._some = threading.Event()
        self._writing = threading.Lock()
        threading.Thread(target=self._write_on, name="log", daemon=True).start()
        atexit.register(self._write)

    def msg(self, line: str) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self._dropped += 1
            return
        self._waiting.append(line)
        if not self._some.is_set():
            self._some.set()

    debug = info = warning = warn = error = exception = critical = msg

    def _write_on(self) -> None:
        while True:
            self._some.wait()
            time.sleep(_GATHERING)
            self._some.clear()
            self._write()

    def _write(self) -> None:
        with self._writing:
            lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if self._dropped:
                lines.append(f'{{"event":"events_dropped","count":{self._dropped}}}')
                self._dropped = 0
            if lines:
                try:
                    self._stream.write("\n".join(lines) + "\n")
                    self._stream.flush()
                except (OSError, ValueError):
                    pass  # nobody reads the log any more; the mirror serves on
