"""Bounded ring of reusable 1 MiB buffers between one producer (network) and one consumer (disk)."""

from __future__ import annotations

import asyncio
from collections import deque
from mmap import mmap

_BUFFERS = 4
_BUFFER_BYTES = 2**20  # per buffer; while all four are full, the producer waits for the consumer


class BufferRing:
    """Four reusable buffers.

    They are anonymous memory: pages take physical memory once they are written, so a slow download takes little.
    """

    def __init__(self) -> None:
        self._empty = deque(memoryview(mmap(-1, _BUFFER_BYTES)) for _ in range(_BUFFERS))
        self._filled = deque[tuple[memoryview, memoryview]]()
        self._closed = False
        self._changed = asyncio.Event()

    async def next_empty(self) -> memoryview | None:
        """Wait for a buffer to fill. Return None once the ring is closed."""
        while not self._empty and not self._closed:
            await self._change()
        return None if self._closed else self._empty.popleft()

    def submit(self, buffer: memoryview, content: memoryview) -> None:
        """Pass *buffer* to the consumer; *content* is the part of it to write."""
        self._filled.append((buffer, content))
        self._changed.set()

    async def next_filled(self) -> tuple[memoryview, memoryview] | None:
        """Wait for a filled buffer and its content. Return None once the ring is closed and drained."""
        while not self._filled and not self._closed:
            await self._change()
        return self._filled.popleft() if self._filled else None

    def recycle(self, buffer: memoryview) -> None:
        """Return a consumed buffer to the producer."""
        self._empty.append(buffer)
        self._changed.set()

    def close(self) -> None:
        """End the transfer from either side. The consumer still receives the buffers that are already filled."""
        self._closed = True
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
