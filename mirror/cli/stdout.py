"""Failures of standard output: a full disk, a pipe that its reader closed, a closed file descriptor."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from mirror.cli.options import INCOMPLETE, UNUSABLE

_STREAMS = (os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)  # read-only for standard output, so that writes to it still fail


class _Output(io.TextIOWrapper):
    """Standard output that records its error, to distinguish it from an error of another file."""

    failure: OSError | None = None

    def write(self, text: str, /) -> int:
        with self._recorded():
            return super().write(text)

    def flush(self) -> None:
        with self._recorded():
            super().flush()

    @contextmanager
    def _recorded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
            raise


@contextmanager
def reported_output_failures() -> Iterator[None]:
    """Report in one line that standard output failed, and exit. A closed pipe (`| head`) is normal: no report."""
    _open_streams()
    own = cast("io.TextIOWrapper", sys.stdout)  # the interpreter creates it as this class
    sys.stdout = output = _Output(
        open(1, "wb", buffering=0 if own.write_through else -1, closefd=False),  # noqa: SIM115
        own.encoding,
        own.errors,
        line_buffering=own.line_buffering,
        write_through=own.write_through,
    )
    try:
        try:
            yield
        finally:
            output.flush()
    except OSError as error:
        if output.failure is None:
            raise
        if error.errno == errno.EPIPE:
            sys.exit(INCOMPLETE)
        reason = "it is closed" if error.errno == errno.EBADF else error.strerror
        print(f"mirror: standard output can't be written: {reason}", file=sys.stderr)  # noqa: T201
        sys.exit(UNUSABLE)
    finally:
        if output.failure is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes buffers at its end
        output.detach()
        sys.stdout = own


def _open_streams() -> None:
    """Open /dev/null for closed standard streams: other files would get their numbers."""
    for number, mode in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest free number
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - open until the program ends
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
