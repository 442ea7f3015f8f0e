"""Events: structured, one line each, on standard error.

Rendered at once and written by a thread of its own, in batches: a busy mirror is not slowed by its log, nor stopped
by a reader of it that hangs.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TextIO

import orjson
import structlog

_GATHERING = 0.05  # seconds in which lines gather to be written together
_MOST_WAITING = 100_000  # lines, about 30 MiB; what comes on top is dropped, and counted
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(*, level: str, format: str, stream: TextIO | None = None) -> None:  # noqa: A002 - the setting's name
    """Configure logging for the whole program. *level* and *format* are the values of `[log]`."""
    stream = stream or sys.stderr
    lines = _Lines(stream)
    colours = stream.isatty()
    least = _LEVELS[level]
    logging.basicConfig(handlers=[_Foreign()], level=max(least, logging.WARNING), force=True)
    if format == "console" or (format == "auto" and colours):
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper("%H:%M:%S", utc=False),
                structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(least),
            logger_factory=lambda *_: lines,
            cache_logger_on_first_use=True,
        )
    else:
        structlog.configure(
            wrapper_class=_json_events(least), logger_factory=lambda *_: lines, cache_logger_on_first_use=True
        )


class _Foreign(logging.Handler):
    """Makes events of what libraries log. What a client sent wrongly is no fault of ours, and needs no traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if 400 <= getattr(error, "code", 0) < 500:  # the status that aiohttp answers it with
            structlog.get_logger().info("request_malformed", reason=" ".join(str(error).split())[:256])
        else:
            reason = record.getMessage() if error is None else f"{record.getMessage()}: {error!r}"
            structlog.get_logger().warning("library_warned", library=record.name, reason=reason)


class _Clock:
    """The time as RFC 3339 has it, in UTC with milliseconds. All but those are rendered once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._rendered = ""

    def now(self) -> str:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second, self._rendered = second, time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        return f"{self._rendered}{int((now - second) * 1000):03d}Z"


def _json_events(least: int) -> type[structlog.BoundLoggerBase]:
    """A logger class that renders JSON in one step: structlog's chain of processors would take twice the time."""
    clock = _Clock()

    class JsonEvents(structlog.BoundLoggerBase):
        def _emit(self, level: str, event: str, facts: dict[str, Any]) -> None:
            if _LEVELS[level] >= least:
                facts["event"] = event
                facts["level"] = level
                facts["timestamp"] = clock.now()
                self._logger.line(_line(facts))

        def debug(self, event: str, **facts: Any) -> None:  # noqa: ANN401
            self._emit("debug", event, facts)

        def info(self, event: str, **facts: Any) -> None:  # noqa: ANN401
            self._emit("info", event, facts)

        def warning(self, event: str, **facts: Any) -> None:  # noqa: ANN401
            self._emit("warning", event, facts)

        def exception(self, event: str, **facts: Any) -> None:  # noqa: ANN401
            facts["exc_info"] = True
            self._emit("error", event, dict(structlog.processors.format_exc_info(None, "error", facts)))

    return JsonEvents


def _line(facts: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(facts, default=repr)
    except orjson.JSONEncodeError:  # bytes of an upstream's that are no UTF-8: in Python's strings, lone surrogates
        return json.dumps(facts, default=repr).encode()


class _Lines:
    """Lines on their way to the stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._waiting: deque[bytes] = deque()
        self._dropped = 0
        self._some = threading.Event()
        self._writing = threading.Lock()
        threading.Thread(target=self._write_on, name="log", daemon=True).start()
        atexit.register(self._write, patience=1.0)

    def line(self, line: bytes) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self._dropped += 1
            return
        self._waiting.append(line)
        if not self._some.is_set():
            self._some.set()

    def msg(self, line: str) -> None:
        self.line(line.encode(errors="backslashreplace"))

    debug = info = warning = warn = error = exception = critical = msg

    def _write_on(self) -> None:
        while True:
            self._some.wait()
            time.sleep(_GATHERING)
            self._some.clear()
            self._write()

    def _write(self, *, patience: float = -1) -> None:
        """Writes what waits; gives up after *patience* seconds, if another thread is stuck in it."""
        if not self._writing.acquire(timeout=patience):
            return
        try:
            lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if self._dropped:
                lines.append(orjson.dumps({"event": "events_dropped", "level": "warning", "count": self._dropped}))
                self._dropped = 0
            if lines:
                self._put(memoryview(b"\n".join(lines) + b"\n"))
        finally:
            self._writing.release()

    def _put(self, text: memoryview) -> None:
        try:
            while text:
                # Past Python's buffer: its lock, held by a thread that is stuck, would stop the program from ending.
                text = text[os.write(self._stream.fileno(), text) :]
        except (OSError, ValueError):
            pass  # nobody reads the log any more; the mirror serves on


class RateLimitedLog:
    """Logs an event that may recur with every request at most once a minute for each *kind*, and counts the rest."""

    def __init__(self, log: Any, *, every: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:  # noqa: ANN401 - structlog's loggers are proxies
        self._log = log
        self._every = every
        self._clock = clock
        self._last: dict[tuple[str, str], float] = {}
        self._suppressed: dict[tuple[str, str], int] = {}

    def warning(self, event: str, kind: str = "", **facts: object) -> None:
        if self._is_due(event, kind):
            self._log.warning(event, **self._with_suppressed(event, kind, facts))

    def info(self, event: str, kind: str = "", **facts: object) -> None:
        if self._is_due(event, kind):
            self._log.info(event, **self._with_suppressed(event, kind, facts))

    def _is_due(self, event: str, kind: str) -> bool:
        now = self._clock()
        last = self._last.get((event, kind))
        if last is not None and now < last + self._every:
            self._suppressed[event, kind] = self._suppressed.get((event, kind), 0) + 1
            return False
        self._last[event, kind] = now
        return True

    def _with_suppressed(self, event: str, kind: str, facts: dict[str, object]) -> dict[str, object]:
        suppressed = self._suppressed.pop((event, kind), 0)
        return {**facts, "suppressed": suppressed} if suppressed else facts
