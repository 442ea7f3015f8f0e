"""A belt: buffers that go round between who fills them and who empties them."""

from __future__ import annotations

import asyncio
from collections import deque
from mmap import mmap

_BUFFERS = 4
_BUFFER = 2**20  # bytes; with all four full, who fills waits for who empties


class BufferRing:
    """Four buffers.

    Anonymous memory: a buffer takes only what was ever in it, so a slow download takes little.
    """

    def __init__(self) -> None:
        self._empty = deque(memoryview(mmap(-1, _BUFFER)) for _ in range(_BUFFERS))
        self._filled = deque[tuple[memoryview, memoryview]]()
        self._stopped = False
        self._changed = asyncio.Event()

    async def empty(self) -> memoryview | None:
        """A buffer to fill, once there is one; None when nobody empties them any more."""
        while not self._empty and not self._stopped:
            await self._change()
        return None if self._stopped else self._empty.popleft()

    def put(self, buffer: memoryview, content: memoryview) -> None:
        """Passes on a buffer, with the part of it that is to be written."""
        self._filled.append((buffer, content))
        self._changed.set()

    async def filled(self) -> tuple[memoryview, memoryview] | None:
        """A buffer and what is to be written of it, once there is one; None at the end."""
        while not self._filled and not self._stopped:
            await self._change()
        return self._filled.popleft() if self._filled else None

    def give_back(self, buffer: memoryview) -> None:
        self._empty.append(buffer)
        self._changed.set()

    def stop(self) -> None:
        """No more comes, or no more is taken."""
        self._stopped = True
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
