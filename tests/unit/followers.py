"""Simulated readers of a download, which accept a blob only if it is complete."""

from __future__ import annotations

import asyncio
import os

from mirror.errors import MirrorError, UpstreamDisconnected
from mirror.pull.downloads import Downloads
from tests.unit.loops import Loop
from tests.unit.sources import CONTEXT, Source

_PIECE = 20_000  # bytes that a slow reader reads at a time


class Follower:
    """A reader of a download: it receives a size, and reads bytes until it has as many."""

    def __init__(
        self, loop: Loop, downloads: Downloads, source: Source, *, expected_size: int | None, is_slow: bool
    ) -> None:
        self.source = source
        self.is_slow = is_slow
        self.promised: int | None = None
        self.got = b""
        self.failure: MirrorError | None = None
        self._permits = asyncio.Semaphore(0)
        self.task = loop.create_task(self._follow(downloads, expected_size))

    @property
    def is_whole(self) -> bool:
        """Return whether the reader has as many bytes as promised."""
        return len(self.got) == self.promised

    def read_next(self, times: int = 1) -> None:
        """Let a slow reader read the next pieces."""
        for _ in range(times):
            self._permits.release()

    async def _follow(self, downloads: Downloads, expected_size: int | None) -> None:
        try:
            async with downloads.follow(CONTEXT, self.source.content.digest, expected_size) as download:
                self.promised = download.size
                while len(self.got) < self.promised:
                    if self.is_slow:
                        await self._permits.acquire()
                    reach = min(await download.reach(len(self.got)), self.promised)
                    max_size = _PIECE if self.is_slow else reach
                    piece = os.pread(download.fileno(), min(max_size, reach - len(self.got)), len(self.got))
                    if not piece:
                        raise UpstreamDisconnected("the file ended before the blob")
                    self.got += piece
        except MirrorError as failure:
            self.failure = failure
