"""Admin client: sends the requests of the mirror's commands to the process that has locked the cache."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import aiohttp
from pydantic import TypeAdapter, ValidationError

from mirror.admin.message import Message, explain
from mirror.admin.protocol import (
    HOLD_EVENTS,
    VERSION,
    VERSION_HEADER,
    WARM_EVENTS,
    AdminVersionMismatch,
    BlobStored,
    CacheStats,
    CollectedGarbage,
    CollectRequest,
    Failure,
    GraphResponse,
    HoldRequest,
    ImageImported,
    ImageList,
    ImageSelection,
    ImportRequest,
    MirrorStatus,
    RemovedImages,
    RepairedBlob,
    RepairRequest,
    SelectedImages,
    StreamFailed,
    WarmRequest,
    WarmUpdate,
)
from mirror.errors import MirrorError, StorageFailed
from mirror.oci.digest import Digest
from mirror.storage.layout import storage_errors

_BASE = "http://mirror"  # HTTP requires a host name; it is never resolved
_Response = TypeVar("_Response", bound=Message)
_Event = TypeVar("_Event", bound=Message)


class AdminRefused(MirrorError):
    """The mirror refused a request. The message is the mirror's, `detail["kind"]` the name of its error class."""


class AdminClient:
    """Sends requests to the mirror behind one Unix socket.

    Every request raises StorageFailed if no mirror answers, if this user may not connect, or if the connection ends
    early; AdminRefused if the mirror answers with an error; AdminVersionMismatch if it is of another release.
    """

    def __init__(self, session: aiohttp.ClientSession, path: Path) -> None:
        self._session = session
        self._path = path

    @classmethod
    @asynccontextmanager
    async def at(cls, path: Path) -> AsyncIterator[AdminClient]:
        """Open a client of the mirror whose socket is *path*.

        Raises:
            StorageFailed: if the socket's directory can't be opened.
        """
        with storage_errors(f"the cache directory {path.parent} can't be used"):
            directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connector = aiohttp.UnixConnector(f"/proc/self/fd/{directory}/{path.name}")
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
            headers = {VERSION_HEADER: VERSION}
            async with aiohttp.ClientSession(_BASE, connector=connector, timeout=timeout, headers=headers) as session:
                yield cls(session, path)
        finally:
            os.close(directory)

    @staticmethod
    async def answers(path: Path) -> bool:
        """Return whether a mirror answers at the socket *path*, of whatever release."""
        return await AdminClient.serves(path) is not None

    @staticmethod
    async def serves(path: Path) -> bool | None:
        """Return whether the mirror at the socket *path* serves clients; None if nothing answers there.

        A mirror of another release counts as serving.
        """
        if not path.exists():
            return None
        try:
            async with AdminClient.at(path) as client:
                return (await client.status()).serving
        except AdminVersionMismatch:
            return True
        except StorageFailed:
            return None

    async def status(self) -> MirrorStatus:
        return await self._get("/", MirrorStatus)

    async def images(self) -> ImageList:
        """Return all images of the cache."""
        return await self._get("/images", ImageList)

    async def stats(self) -> CacheStats:
        return await self._get("/stats", CacheStats)

    async def graph(self, selection: ImageSelection) -> GraphResponse:
        """Return everything that images need."""
        return await self._post("/graph", selection, GraphResponse)

    async def pin(self, selection: ImageSelection) -> SelectedImages:
        """Keep images from eviction."""
        return await self._post("/pin", selection, SelectedImages)

    async def unpin(self, selection: ImageSelection) -> SelectedImages:
        """Allow images to be evicted again."""
        return await self._post("/unpin", selection, SelectedImages)

    async def remove(self, selection: ImageSelection) -> RemovedImages:
        """Remove images, and the blobs that only they needed."""
        return await self._post("/remove", selection, RemovedImages)

    async def collect(self) -> CollectedGarbage:
        """Remove all blobs that no image needs."""
        return await self._post("/collect", CollectRequest(), CollectedGarbage)

    async def import_image(self, request: ImportRequest) -> ImageImported:
        """Make an image visible. All of its blobs must be stored."""
        return await self._post("/image", request, ImageImported)

    async def put_blob(self, digest: Digest, size: int, pieces: Callable[[], AsyncIterator[bytes]]) -> BlobStored:
        """Store a blob. The mirror verifies its size and its digest."""
        headers = {"Content-Length": str(size)}
        with self._connection_errors():
            async with self._session.put(f"/blobs/{digest}", data=pieces(), headers=headers) as response:
                return await self._read(response, BlobStored)

    async def repair(self, request: RepairRequest) -> RepairedBlob:
        """Remove a damaged blob, and fetch it again if the request says so."""
        return await self._post("/repair", request, RepairedBlob)

    @asynccontextmanager
    async def held(self, digests: Iterable[Digest]) -> AsyncIterator[None]:
        """Keep blobs from eviction until the context ends."""
        async with self._events("/hold", HoldRequest(digests=tuple(digests)), HOLD_EVENTS) as events:
            if await anext(events, None) is None:
                raise self._broken_off()
            yield

    @asynccontextmanager
    async def warm(self, request: WarmRequest) -> AsyncIterator[AsyncIterator[WarmUpdate]]:
        """Start downloads of images. The iterator ends with the downloads; leaving the context stops them."""
        stream: AbstractAsyncContextManager[AsyncIterator[WarmUpdate]] = self._events("/warm", request, WARM_EVENTS)
        async with stream as updates:
            yield updates

    async def _get(self, path: str, model: type[_Response]) -> _Response:
        with self._connection_errors():
            async with self._session.get(path) as response:
                return await self._read(response, model)

    async def _post(self, path: str, message: Message, model: type[_Response]) -> _Response:
        with self._connection_errors():
            async with self._session.post(path, data=message.to_json().encode()) as response:
                return await self._read(response, model)

    @asynccontextmanager
    async def _events(
        self, path: str, message: Message, events: TypeAdapter[_Event | StreamFailed]
    ) -> AsyncIterator[AsyncIterator[_Event]]:
        """Send a request whose response is a stream of *events*; leaving the context closes the connection."""
        async with AsyncExitStack() as exits:
            with self._connection_errors():
                request = self._session.post(path, data=message.to_json().encode())
                response = await exits.enter_async_context(request)
                await self._require_success(response)

            async def read() -> AsyncIterator[_Event]:
                with self._connection_errors():
                    async for line in response.content:
                        event = events.validate_json(line)
                        if isinstance(event, StreamFailed):
                            raise AdminRefused(event.error, kind=event.kind)
                        yield event

            yield read()

    async def _read(self, response: aiohttp.ClientResponse, model: type[_Response]) -> _Response:
        await self._require_success(response)
        return model.model_validate_json(await response.read())

    async def _require_success(self, response: aiohttp.ClientResponse) -> None:
        """
        Raises:
            AdminVersionMismatch: if the response is of another version of the protocol, or of none.
            AdminRefused: if the mirror answers with an error.
        """
        version = response.headers.get(VERSION_HEADER)
        if version != VERSION:
            raise AdminVersionMismatch(mirror=version, command=VERSION)
        if response.status != 200:
            failure = Failure.model_validate_json(await response.read())
            raise AdminRefused(failure.error, kind=failure.kind)

    @contextmanager
    def _connection_errors(self) -> Iterator[None]:
        """Turn errors of the connection, and responses that can't be read, into StorageFailed."""
        try:
            yield
        except aiohttp.ClientConnectorError as error:
            raise StorageFailed(
                f"no mirror answers at {self._path}: {error.os_error.strerror}; run the command again"
            ) from error
        except aiohttp.ClientError as error:
            raise self._broken_off() from error
        except ValidationError as error:
            if any(fault["type"] == "json_invalid" for fault in error.errors()):  # half a line: the connection ended
                raise self._broken_off() from error
            raise StorageFailed(
                f"the mirror at {self._path} sent a response that can't be read ({explain(error)}): run the command of "
                f"the same release as the mirror"
            ) from error

    def _broken_off(self) -> StorageFailed:
        return StorageFailed(
            f"the mirror at {self._path} broke off the connection: run the command again, it continues from there"
        )
