"""Control: what the mirror's own commands ask of the mirror that holds the cache (see server.admin)."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from mirror.errors import MirrorError, StorageFailed
from mirror.oci.digest import Digest
from mirror.storage.layout import storage_errors

_BASE = "http://mirror"  # a name that HTTP wants, and nobody looks up
Document = Mapping[str, Any]


class AdminRefused(MirrorError):
    """The running mirror said no; the message is its own, and so is the name of the error: `detail["kind"]`."""


class AdminClient:
    """Questions to the mirror behind one socket."""

    def __init__(self, session: aiohttp.ClientSession, path: Path) -> None:
        self._session = session
        self._path = path

    @classmethod
    @asynccontextmanager
    async def at(cls, path: Path) -> AsyncIterator[AdminClient]:
        """The mirror that answers at the socket *path*.

        Each question raises StorageFailed where nobody answers there, or not to this user, or not to the end.
        """
        with storage_errors(f"the cache directory {path.parent} can't be used"):
            directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connector = aiohttp.UnixConnector(f"/proc/self/fd/{directory}/{path.name}")
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
            async with aiohttp.ClientSession(_BASE, connector=connector, timeout=timeout) as session:
                yield cls(session, path)
        finally:
            os.close(directory)

    @staticmethod
    async def answers(path: Path) -> bool:
        """Whether somebody answers at the socket *path*."""
        return await AdminClient.serves(path) is not None

    @staticmethod
    async def serves(path: Path) -> bool | None:
        """Whether who answers at the socket *path* is a mirror that serves, or a command; None where nobody answers."""
        if not path.exists():
            return None
        try:
            async with AdminClient.at(path) as control:
                return (await control.get("/")).get("serving") is True
        except StorageFailed:
            return None

    async def get(self, path: str) -> Any:  # noqa: ANN401 - JSON; each caller checks what it takes
        with self._broken_off():
            async with self._session.get(path) as response:
                return await _checked(response)

    async def post(self, path: str, **document: object) -> Any:  # noqa: ANN401
        """The answer to a question.

        Raises:
            Refused
        """
        with self._broken_off():
            async with self._session.post(path, json=document) as response:
                return await _checked(response)

    @asynccontextmanager
    async def lines(self, path: str, **document: object) -> AsyncIterator[AsyncIterator[Document]]:
        """The lines of an answer that takes its time, as they come. Leaving the context ends what goes on there."""
        async with AsyncExitStack() as exits:
            with self._broken_off():
                response = await exits.enter_async_context(self._session.post(path, json=document))
                if response.status != 200:
                    await _checked(response)

            async def read() -> AsyncIterator[Document]:
                with self._broken_off():
                    async for line in response.content:
                        yield json.loads(line)

            yield read()

    @asynccontextmanager
    async def held(self, digests: Iterable[Digest]) -> AsyncIterator[None]:
        """Keeps blobs from eviction until the context ends."""
        async with self.lines("/hold", digests=list(map(str, digests))) as lines:
            if await anext(lines, None) is None:
                raise StorageFailed(f"the mirror at {self._path} broke off: run the command again")
            yield

    async def put(self, digest: Digest, size: int, pieces: Callable[[], AsyncIterator[bytes]]) -> bool:
        """Brings a blob in; whether it was not there yet.

        Raises:
            Refused: it is not what its digest says, or can't be stored.
        """
        headers = {"Content-Length": str(size)}
        with self._broken_off():
            async with self._session.put(f"/blobs/{digest}", data=pieces(), headers=headers) as response:
                return bool((await _checked(response))["stored"])

    @contextmanager
    def _broken_off(self) -> Iterator[None]:
        try:
            yield
        except aiohttp.ClientConnectorError as error:
            raise StorageFailed(f"no mirror answers at {self._path}: {error.os_error.strerror}") from error
        except (aiohttp.ClientError, json.JSONDecodeError) as error:
            raise StorageFailed(
                f"the mirror at {self._path} broke off: run the command again, it goes on from there"
            ) from error


async def _checked(response: aiohttp.ClientResponse) -> Any:  # noqa: ANN401
    document = await response.json(content_type=None)
    if response.status != 200:
        raise AdminRefused(str(document.get("error", f"status {response.status}")), kind=str(document.get("kind")))
    return document
