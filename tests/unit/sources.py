"""Simulated upstream connections for a blob, which send bytes, break and end as the test requests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mirror.auth.rules import Caller
from mirror.errors import MirrorError
from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.oci.ranges import Span
from mirror.origin import PullContext
from tests.unit.contents import Content

CONTEXT = PullContext(Caller(None), Repository("registry.test", "app"))


@dataclass(frozen=True, slots=True)
class Manner:
    """How a source responds.

    Attributes:
        honors_range: whether it sends the requested range; otherwise it sends the whole blob.
        announces: the difference between the announced and the real size; None for no announced size.
        refusal: the error instead of a response.
    """

    honors_range: bool = True
    announces: int | None = 0
    refusal: MirrorError | None = None


class Connection:
    """One response of a source, from which a download reads."""

    def __init__(self, content: Content, span: Span | None, manner: Manner) -> None:
        self.span = span
        self.validator: str | None = None
        self.start = span.start if span is not None and manner.honors_range else 0
        self.size = None if manner.announces is None else max(0, len(content.body) + manner.announces)
        self.at = self.start  # offset of the next bytes
        self.is_open = True
        self.is_refused = manner.refusal is not None
        self._pieces = deque[bytes]()
        self._end: MirrorError | None = None
        self._ended = False
        self._changed = asyncio.Event()

    async def read_into(self, buffer: memoryview) -> int:
        while not self._pieces and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        if not self._pieces:
            if self._end is not None:
                raise self._end
            return 0
        piece = self._pieces.popleft()
        size = min(len(piece), len(buffer))
        buffer[:size] = piece[:size]
        if piece[size:]:
            self._pieces.appendleft(piece[size:])
        return size

    def detach(self) -> None:
        return None

    def send(self, piece: bytes) -> None:
        if piece:
            self.at += len(piece)
            self._pieces.append(piece)
            self._changed.set()

    def end(self, error: MirrorError | None = None) -> None:
        """End the response, with an error or normally."""
        self._ended, self._end = True, error
        self._changed.set()


class Source:
    """All connections for one blob, one after the other."""

    def __init__(self, content: Content) -> None:
        self.content = content
        self.manner = Manner()
        self.connections: list[Connection] = []
        self.was_asked_twice = False  # during an open connection

    @property
    def connection(self) -> Connection | None:
        """The open connection."""
        return self.connections[-1] if self.connections and self.connections[-1].is_open else None

    @property
    def name(self) -> str:
        return "a source"

    @asynccontextmanager
    async def open(self, context: PullContext, digest: Digest, span: Span | None) -> AsyncIterator[Connection]:
        """The origin of a download."""
        self.was_asked_twice |= self.connection is not None
        connection = Connection(self.content, span, self.manner)
        self.connections.append(connection)
        try:
            if self.manner.refusal is not None:
                raise self.manner.refusal
            yield connection
        finally:
            connection.is_open = False
