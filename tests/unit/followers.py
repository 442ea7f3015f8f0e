"""Who follows a download, and takes it for a blob only if all of it came."""

from __future__ import annotations

import asyncio
import os

from mirror.errors import MirrorError, UpstreamDisconnected
from mirror.pull.downloads import Downloads
from tests.unit.loops import Loop
from tests.unit.sources import CONTEXT, Source

_SIP = 20_000  # bytes that a slow one takes at a time


class Follower:
    """A client, as far as a download sees it: it was promised a size, and gets bytes until it has so many."""

    def __init__(self, loop: Loop, downloads: Downloads, source: Source, *, told: int | None, is_slow: bool) -> None:
        self.source = source
        self.is_slow = is_slow
        self.promised: int | None = None
        self.got = b""
        self.failure: MirrorError | None = None
        self._sips = asyncio.Semaphore(0)
        self.task = loop.create_task(self._follow(downloads, told))

    @property
    def is_whole(self) -> bool:
        """Whether it takes what it has for the blob."""
        return len(self.got) == self.promised

    def sip(self, times: int = 1) -> None:
        """Lets a slow one take the next bytes."""
        for _ in range(times):
            self._sips.release()

    async def _follow(self, downloads: Downloads, told: int | None) -> None:
        try:
            async with downloads.follow(CONTEXT, self.source.content.digest, told) as download:
                self.promised = download.size
                while len(self.got) < self.promised:
                    if self.is_slow:
                        await self._sips.acquire()
                    reach = min(await download.reach(len(self.got)), self.promised)
                    most = _SIP if self.is_slow else reach
                    piece = os.pread(download.fileno(), min(most, reach - len(self.got)), len(self.got))
                    if not piece:
                        raise UpstreamDisconnected("the file ended before the blob")
                    self.got += piece
        except MirrorError as failure:
            self.failure = failure
