"""Who asked an origin for what, and how each answer ended: what tests count."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from multidict import CIMultiDictProxy


class Ending(StrEnum):
    """How an answer's body ended."""

    RUNNING = "running"
    COMPLETE = "complete"
    CUT = "cut"  # by a fault, on purpose
    LEFT = "left"  # the asker closed the connection


@dataclass(slots=True, kw_only=True)
class Seen:
    """One request as it arrived, and what became of its answer."""

    method: str
    target: str  # path and query exactly as on the wire
    headers: CIMultiDictProxy[str]
    certified: bool = False  # a certificate of the asker's was shown
    status: int | None = None  # None: no status line was sent
    sent: int = 0  # bytes of the body
    ending: Ending = Ending.RUNNING

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The target's query as it was spelled, without the question mark."""
        return self.target.partition("?")[2]

    @property
    def range(self) -> str | None:
        """The Range header; None when the whole was asked for."""
        return self.headers.get("Range")


class Journal:
    """Every request an origin saw, in the order of arrival."""

    def __init__(self) -> None:
        self.entries: list[Seen] = []
        self._changed = asyncio.Event()

    def open(self, entry: Seen) -> Seen:
        """Note a request's arrival."""
        self.entries.append(entry)
        self.touch()
        return entry

    def touch(self) -> None:
        """Wake whoever waits for a change; called after an entry was altered."""
        self._changed.set()
        self._changed = asyncio.Event()

    def of(self, method: str | None = None, path: str = "*") -> list[Seen]:
        """The requests with this method (None: any) whose path matches a shell pattern."""
        return [e for e in self.entries if method in (None, e.method) and fnmatchcase(e.path, path)]

    async def until(self, holds: Callable[["Journal"], bool], within: float = 10.0) -> None:
        """Return as soon as *holds* is true of this journal.

        Raises:
            AssertionError: it wasn't within that many seconds; the message lists what was seen.
        """
        try:
            async with asyncio.timeout(within):
                while not holds(self):
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"not seen within {within} s; seen: {self}") from None

    def __str__(self) -> str:
        return "; ".join(f"{e.method} {e.target} -> {e.status} {e.sent} bytes {e.ending}" for e in self.entries) or "-"

    def __len__(self) -> int:
        return len(self.entries)
