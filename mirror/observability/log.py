"""Structured logging: one event per line on standard error, as JSON or for a terminal.

Events are rendered at once and written in batches by a separate thread: the log does not slow the mirror down, and a
blocked reader of the log does not stop it.
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

from mirror.primitives.lru import LruCache

_BATCH_SECONDS = 0.05  # lines of this time are written together
_MAX_QUEUED = 100_000  # lines, about 30 MiB; further lines are dropped and counted
_MAX_KINDS = 1024  # of one RateLimitedLog: a kind may contain a path, of which there is no limit
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(*, level: str, format: str, stream: TextIO | None = None) -> None:  # noqa: A002 - the setting's name
    """Configure logging for the whole program. *level* and *format* are the values of `[log]`."""
    stream = stream or sys.stderr
    writer = _LineWriter(stream)
    is_terminal = stream.isatty()
    min_level = _LEVELS[level]
    logging.basicConfig(handlers=[_LibraryHandler()], level=max(min_level, logging.WARNING), force=True)
    if format == "console" or (format == "auto" and is_terminal):
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper("%H:%M:%S", utc=False),
                structlog.dev.ConsoleRenderer(colors=is_terminal, exception_formatter=structlog.dev.plain_traceback),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(min_level),
            logger_factory=lambda *_: writer,
            cache_logger_on_first_use=True,
        )
    else:
        structlog.configure(
            wrapper_class=_json_events(min_level), logger_factory=lambda *_: writer, cache_logger_on_first_use=True
        )


class _LibraryHandler(logging.Handler):
    """Turns log records of libraries into events. A malformed request is logged at info, without a traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if 400 <= getattr(error, "code", 0) < 500:  # the status of aiohttp's response
            structlog.get_logger().info("request_malformed", reason=" ".join(str(error).split())[:256])
        else:
            reason = record.getMessage() if error is None else f"{record.getMessage()}: {error!r}"
            structlog.get_logger().warning("library_warned", library=record.name, reason=reason)


class _Clock:
    """RFC 3339 timestamps in UTC with milliseconds. The part up to the seconds is rendered once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._rendered = ""

    def now(self) -> str:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second, self._rendered = second, time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        return f"{self._rendered}{int((now - second) * 1000):03d}Z"


def _json_events(min_level: int) -> type[structlog.BoundLoggerBase]:
    """Return a logger class that renders JSON in one step, in half the time of structlog's chain of processors."""
    clock = _Clock()

    class JsonEvents(structlog.BoundLoggerBase):
        def _emit(self, level: str, event: str, facts: dict[str, Any]) -> None:
            if _LEVELS[level] >= min_level:
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
    except orjson.JSONEncodeError:  # an upstream's bytes that are not UTF-8 are lone surrogates
        return json.dumps(facts, default=repr).encode()


class _LineWriter:
    """A queue of lines, and the thread that writes them to the stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._queue: deque[bytes] = deque()
        self._dropped = 0
        self._queued = threading.Event()
        self._write_lock = threading.Lock()
        threading.Thread(target=self._run, name="log", daemon=True).start()
        atexit.register(self._write, timeout=1.0)

    def line(self, line: bytes) -> None:
        if len(self._queue) >= _MAX_QUEUED:
            self._dropped += 1
            return
        self._queue.append(line)
        if not self._queued.is_set():
            self._queued.set()

    def msg(self, line: str) -> None:
        self.line(line.encode(errors="backslashreplace"))

    debug = info = warning = warn = error = exception = critical = msg

    def _run(self) -> None:
        while True:
            self._queued.wait()
            time.sleep(_BATCH_SECONDS)
            self._queued.clear()
            self._write()

    def _write(self, *, timeout: float = -1) -> None:
        """Write the queued lines; give up if another thread still writes after *timeout* seconds (-1: wait forever)."""
        if not self._write_lock.acquire(timeout=timeout):
            return
        try:
            lines = [self._queue.popleft() for _ in range(len(self._queue))]
            if self._dropped:
                lines.append(orjson.dumps({"event": "events_dropped", "level": "warning", "count": self._dropped}))
                self._dropped = 0
            if lines:
                self._write_all(memoryview(b"\n".join(lines) + b"\n"))
        finally:
            self._write_lock.release()

    def _write_all(self, text: memoryview) -> None:
        try:
            while text:
                # Bypass Python's buffer: a blocked thread would hold its lock and keep the program from exiting.
                text = text[os.write(self._stream.fileno(), text) :]
        except (OSError, ValueError):
            pass  # the reader of the log is gone; the mirror continues


class RateLimitedLog:
    """Logs a recurring event at most once a minute for each *kind*, and counts the suppressed ones.

    It remembers _MAX_KINDS kinds. The next event of a forgotten kind is logged, without the count.
    """

    def __init__(self, log: Any, *, interval: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:  # noqa: ANN401 - structlog's loggers are proxies
        self._log = log
        self._recent = LruCache[tuple[str, str], bool](_MAX_KINDS, ttl=interval, clock=clock)
        self._suppressed = LruCache[tuple[str, str], int](_MAX_KINDS)

    def warning(self, event: str, kind: str = "", **facts: object) -> None:
        if self._is_due(event, kind):
            self._log.warning(event, **self._with_suppressed(event, kind, facts))

    def info(self, event: str, kind: str = "", **facts: object) -> None:
        if self._is_due(event, kind):
            self._log.info(event, **self._with_suppressed(event, kind, facts))

    def _is_due(self, event: str, kind: str) -> bool:
        if (event, kind) in self._recent:
            self._suppressed.set((event, kind), (self._suppressed.get((event, kind)) or 0) + 1)
            return False
        self._recent.set((event, kind), True)
        return True

    def _with_suppressed(self, event: str, kind: str, facts: dict[str, object]) -> dict[str, object]:
        suppressed = self._suppressed.get((event, kind))
        self._suppressed.delete((event, kind))
        return {**facts, "suppressed": suppressed} if suppressed else facts
