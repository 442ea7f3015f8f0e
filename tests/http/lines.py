"""Connections that do not behave as clients do: written to byte by byte, read from slowly, or not at all."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from tests.http.client import WITHIN
from tests.real.mirror import Mirror


class Line:
    """A TCP connection to the mirror, with a small window: little of an answer fits between the two."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._loop = asyncio.get_running_loop()

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, mirror: Mirror, *, window: int = 2**12) -> AsyncIterator["Line"]:
        with socket.socket() as line:
            line.setblocking(False)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", mirror.port))
            yield cls(line)

    async def send(self, content: bytes) -> None:
        await self._loop.sock_sendall(self._line, content)

    async def get(self, target: str) -> None:
        """Ask, and do not read."""
        await self.send(f"GET {target} HTTP/1.1\r\nHost: mirror.test\r\n\r\n".encode())

    def say_no_more(self) -> None:
        """Close the sending side only."""
        self._line.shutdown(socket.SHUT_WR)

    async def receive(self, most: int = 2**16) -> bytes:
        """What is there next; nothing at the end, be it proper or not."""
        async with asyncio.timeout(WITHIN):
            try:
                return await self._loop.sock_recv(self._line, most)
            except ConnectionError:
                return b""

    async def rest(self) -> bytes:
        """All that comes until the end."""
        received = bytearray()
        while piece := await self.receive():
            received += piece
        return bytes(received)

    async def answer(self) -> bytes:
        """A small answer, whole, after which the connection may stay."""
        received = bytearray()
        while b"\r\n\r\n" not in received:
            piece = await self.receive()
            assert piece, f"an end after {bytes(received)!r}"
            received += piece
        return bytes(received)

    async def ended(self) -> bool:
        """Whether the mirror has closed it; nothing may be there to read."""
        try:
            return not self._line.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except ConnectionError:
            return True
