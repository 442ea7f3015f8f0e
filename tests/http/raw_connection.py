"""A raw TCP connection to the mirror, for clients that send byte by byte, read slowly, or do not read at all."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from tests.http.client import WITHIN
from tests.real.mirror import Mirror


class RawConnection:
    """A TCP connection with a small receive window, so that little of a response is buffered in the kernel."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._loop = asyncio.get_running_loop()

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, mirror: Mirror, *, window: int = 2**12) -> AsyncIterator["RawConnection"]:
        with socket.socket() as connection:
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", mirror.port))
            yield cls(connection)

    async def send(self, content: bytes) -> None:
        await self._loop.sock_sendall(self._socket, content)

    async def get(self, target: str) -> None:
        """Send a GET without reading the response."""
        await self.send(f"GET {target} HTTP/1.1\r\nHost: mirror.test\r\n\r\n".encode())

    def close_sending(self) -> None:
        """Close the sending side only."""
        self._socket.shutdown(socket.SHUT_WR)

    async def receive(self, max_bytes: int = 2**16) -> bytes:
        """Return the next bytes; empty at the end of the stream, proper or not."""
        async with asyncio.timeout(WITHIN):
            try:
                return await self._loop.sock_recv(self._socket, max_bytes)
            except ConnectionError:
                return b""

    async def rest(self) -> bytes:
        """Return everything until the end of the stream."""
        received = bytearray()
        while piece := await self.receive():
            received += piece
        return bytes(received)

    async def answer(self) -> bytes:
        """Return one small response; the connection may stay open after it."""
        received = bytearray()
        while b"\r\n\r\n" not in received:
            piece = await self.receive()
            assert piece, f"end of stream after {bytes(received)!r}"
            received += piece
        return bytes(received)

    async def is_closed(self) -> bool:
        """Return whether the mirror has closed the connection; there must be nothing left to read."""
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except ConnectionError:
            return True
