"""Standard output, where what a command says may go nowhere: a full disk, a pipe that nobody reads, nothing at all."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from mirror.cli.options import INCOMPLETE, UNUSABLE

_STREAMS = (os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)  # what is written to a closed standard output fails, as it would


class _Output(io.TextIOWrapper):
    """Standard output that remembers why it failed: other files fail with the same errors."""

    failure: OSError | None = None

    def write(self, text: str, /) -> int:
        with self._remembered():
            return super().write(text)

    def flush(self) -> None:
        with self._remembered():
            super().flush()

    @contextmanager
    def _remembered(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
            raise


@contextmanager
def output_told() -> Iterator[None]:
    """Says in a line that standard output failed. Whoever closed a pipe has seen enough, and is told nothing."""
    _open_streams()
    own = cast("io.TextIOWrapper", sys.stdout)  # as the interpreter makes it
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
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is left in buffers
        output.detach()
        sys.stdout = own


def _open_streams() -> None:
    """Puts something in place of standard streams that are closed: other files would take their numbers."""
    for number, mode in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # the lowest number that is free
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - for as long as the program
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
