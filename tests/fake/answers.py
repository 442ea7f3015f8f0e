"""A planned HTTP response, which faults can modify before it is sent."""

import asyncio
import socket
import struct
from dataclasses import dataclass, field

from aiohttp import web
from multidict import CIMultiDict

from tests.fake.journal import Ending, Journal, Seen

BEFORE_HEADERS = -1  # offset of a Stop: before the status line
_CHUNK = 64 * 1024  # bytes per write
_TICK = 0.02  # seconds between the writes of a slow body


class Valve:
    """Blocks a response until a test opens it, and reports that the response has reached it."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._reached = asyncio.Event()

    def open(self) -> None:
        """Release all responses, now and later."""
        self._open.set()

    async def reached(self, within: float = 10.0) -> None:
        """Wait until a response is blocked at this valve; everything before it has been written.

        Raises:
            TimeoutError: if no response arrives within that many seconds.
        """
        async with asyncio.timeout(within):
            await self._reached.wait()

    async def hold(self) -> None:
        """Called by the response: signal the arrival, and wait."""
        self._reached.set()
        await self._open.wait()


@dataclass(frozen=True, slots=True)
class Stop:
    """A place where the response stops: at a valve, or (valve None) by closing the connection."""

    at: int  # offset in the whole content, or BEFORE_HEADERS
    valve: Valve | None
    reset: bool = False  # disconnect by RST instead of FIN


@dataclass(slots=True, kw_only=True)
class Answer:
    """Status, headers, and the range [first, stop) of *content* that is sent as the body."""

    status: int = 200
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    content: bytes = b""
    first: int = 0
    stop: int = 0
    framed: bool = True  # False: no Content-Length (the body of a GET is then chunked)
    content_range: str | None = None  # None: the correct value
    pace: float | None = None  # bytes per second; None: unlimited
    stops: list[Stop] = field(default_factory=list)
    overrun: bytes = b""  # bytes written after the declared end

    @classmethod
    def whole(cls, content: bytes, status: int = 200, **headers: str) -> "Answer":
        """Return a response with all of *content*; ``_`` in header names stands for ``-``."""
        named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
        return cls(status=status, headers=named, content=content, stop=len(content))

    def replace(self, status: int, content: bytes) -> None:
        """Replace the whole response, headers included."""
        self.status, self.content, self.first, self.stop = status, content, 0, len(content)
        self.headers.clear()
        self.framed = True

    def ranged(self, header: str | None) -> None:
        """Reduce a 200 to the single requested range; several ranges are refused, as object stores do."""
        if header is None or self.status != 200 or not header.startswith("bytes="):
            return
        size, spec = len(self.content), header.removeprefix("bytes=")
        if "," in spec:
            self.replace(400, b"one range only")
            return
        start, _, end = spec.partition("-")
        first = int(start) if start else max(0, size - int(end))
        stop = min(size, int(end) + 1) if start and end else size
        if first >= size or first >= stop:
            self.replace(416, b"")
            self.headers["Content-Range"] = f"bytes */{size}"
            return
        self.status, self.first, self.stop = 206, first, stop

    async def send(self, request: web.Request, seen: Seen, journal: Journal) -> web.StreamResponse:
        """Send the response as planned, and record the progress in *seen*."""
        response = self._head(request)
        try:
            if await self._stop_here(BEFORE_HEADERS, request, seen):
                return response
            await response.prepare(request)
            seen.status = self.status
            journal.touch()
            if request.method == "HEAD" or await self._send_body(response, request, seen, journal):
                await response.write_eof()
                seen.ending = Ending.COMPLETE
                self._send_overrun(request)
        except ConnectionError:
            seen.ending = Ending.LEFT
        finally:
            journal.touch()
        return response

    def _head(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=self.status, headers=self.headers)
        if self.status == 206 and "Content-Range" not in self.headers:
            true = f"bytes {self.first}-{self.stop - 1}/{len(self.content)}"
            response.headers["Content-Range"] = self.content_range or true
        if self.framed:
            response.content_length = self.stop - self.first
        elif request.method != "HEAD":
            response.enable_chunked_encoding()
        return response

    async def _send_body(
        self, response: web.StreamResponse, request: web.Request, seen: Seen, journal: Journal
    ) -> bool:
        """Return True when the whole body was sent, False when a fault disconnected."""
        body, at = memoryview(self.content), self.first
        halts = sorted({stop.at for stop in self.stops if self.first <= stop.at})
        while True:
            if at in halts and await self._stop_here(at, request, seen):
                return False
            if at >= self.stop:
                return True
            limit = next((halt for halt in halts if halt > at), self.stop)
            step = _CHUNK if self.pace is None else max(1, int(self.pace * _TICK))
            upto = min(self.stop, limit, at + step)
            await response.write(body[at:upto])
            seen.sent += upto - at
            at = upto
            journal.touch()
            if self.pace is not None:
                await asyncio.sleep(_TICK)

    async def _stop_here(self, at: int, request: web.Request, seen: Seen) -> bool:
        """Wait at the valves at this offset; return True if the connection is closed here."""
        for stop in self.stops:
            if stop.at != at:
                continue
            if stop.valve is not None:
                await stop.valve.hold()
                continue
            if request.transport is not None:
                await _disconnect(request.transport, reset=stop.reset)
            seen.ending = Ending.CUT
            return True
        return False

    def _send_overrun(self, request: web.Request) -> None:
        if self.overrun and request.transport is not None:
            request.transport.write(self.overrun)
            request.transport.close()


async def _disconnect(transport: asyncio.Transport, *, reset: bool) -> None:
    """Close after the written bytes have left the process: a disconnect must not lose bytes that count as sent."""
    async with asyncio.timeout(10):
        while transport.get_write_buffer_size() and not transport.is_closing():  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.001)
    if reset:
        linger = struct.pack("ii", 1, 0)  # on, with timeout 0: close() sends RST
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    else:
        transport.close()
