"""Journal of the requests that an origin received, and how each response ended."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from multidict import CIMultiDictProxy


class Ending(StrEnum):
    """How a response's body ended."""

    RUNNING = "running"
    COMPLETE = "complete"
    CUT = "cut"  # by a fault, on purpose
    LEFT = "left"  # the client closed the connection


@dataclass(slots=True, kw_only=True)
class Seen:
    """One request as received, and the progress of its response."""

    method: str
    target: str  # path and query exactly as on the wire
    headers: CIMultiDictProxy[str]
    certified: bool = False  # the client sent a certificate
    status: int | None = None  # None: no status line was sent
    sent: int = 0  # bytes of the body
    ending: Ending = Ending.RUNNING

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The target's query as spelled, without the question mark."""
        return self.target.partition("?")[2]

    @property
    def range(self) -> str | None:
        """The Range header; None if the request had none."""
        return self.headers.get("Range")


class Journal:
    """All requests that an origin received, in the order of arrival."""

    def __init__(self) -> None:
        self.entries: list[Seen] = []
        self._changed = asyncio.Event()

    def open(self, entry: Seen) -> Seen:
        """Record a request."""
        self.entries.append(entry)
        self.touch()
        return entry

    def touch(self) -> None:
        """Wake the waiters; called after an entry was changed."""
        self._changed.set()
        self._changed = asyncio.Event()

    def of(self, method: str | None = None, path: str = "*") -> list[Seen]:
        """Return the requests with this method (None: any) whose path matches a shell pattern."""
        return [e for e in self.entries if method in (None, e.method) and fnmatchcase(e.path, path)]

    async def until(self, holds: Callable[["Journal"], bool], within: float = 10.0) -> None:
        """Return as soon as *holds* is true of this journal.

        Raises:
            AssertionError: if it is not true within that many seconds; the message lists the requests.
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
