"""HTTP side of the admin server: request bodies to models, models to JSON and NDJSON responses, errors to JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import structlog
from aiohttp import web
from pydantic import ValidationError

from mirror.admin.message import Message, explain
from mirror.admin.protocol import (
    VERSION,
    VERSION_HEADER,
    AdminRequestInvalid,
    AdminVersionMismatch,
    Failure,
    StreamFailed,
)
from mirror.errors import MirrorError

INTERVAL = 0.2  # seconds between two lines about the same thing
_Request = TypeVar("_Request", bound=Message)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
log = structlog.get_logger()


async def read_request(request: web.Request, model: type[_Request]) -> _Request:
    """Return the body of a request as a *model*.

    Raises:
        AdminRequestInvalid: if it is not JSON, or a field is unknown, missing or wrong.
    """
    try:
        return model.model_validate_json(await request.read())
    except ValidationError as error:
        raise AdminRequestInvalid(f"the request to {request.path} is malformed: {explain(error)}") from error


def respond(message: Message, *, status: int = 200) -> web.Response:
    """Return *message* as a JSON response."""
    return web.Response(text=message.to_json(), status=status, content_type="application/json")


class LineStream:
    """A response of newline-delimited JSON. Several tasks may send lines."""

    def __init__(self, request: web.Request) -> None:
        self.response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        self._request = request
        self._writing = asyncio.Lock()

    async def send(self, message: Message) -> None:
        """Send one line.

        Raises:
            ConnectionError: if the client closed the connection.
        """
        async with self._writing:
            if not self.response.prepared:
                await self.response.prepare(self._request)
            await self.response.write(message.to_json().encode() + b"\n")

    @asynccontextmanager
    async def repeating(self, message: Callable[[], Message]) -> AsyncIterator[None]:
        """Send the current *message* every `INTERVAL` seconds until the context ends."""

        async def repeat() -> None:
            while True:
                await asyncio.sleep(INTERVAL)
                await self.send(message())

        task = asyncio.create_task(repeat())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, ConnectionError):
                await task


@asynccontextmanager
async def line_stream(request: web.Request) -> AsyncIterator[LineStream]:
    """Open an NDJSON response. An error after its first line becomes the last line, as the status is sent by then."""
    stream = LineStream(request)
    try:
        yield stream
    except Exception as error:
        if not stream.response.prepared or _is_disconnection(error):
            raise
        failure = _failure(error, request)
        with suppress(ConnectionError):
            await stream.send(StreamFailed(error=failure.error, kind=failure.kind))


@web.middleware
async def require_same_version(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Refuse a request of another version of the protocol, or of none."""
    command = request.headers.get(VERSION_HEADER)
    if command != VERSION:
        raise AdminVersionMismatch(mirror=VERSION, command=command)
    return await handler(request)


@web.middleware
async def errors_as_json(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Turn every error into a JSON response with `error` and `kind`."""
    try:
        return await handler(request)
    except web.HTTPException as error:  # no such path, another method, too large a body
        return respond(
            Failure(error=f"{request.method} {request.path}: {error.reason}", kind="HTTP"), status=error.status
        )
    except Exception as error:
        if _is_disconnection(error):
            raise
        status = error.status if isinstance(error, MirrorError) and error.status >= 400 else 500
        return respond(_failure(error, request), status=status)


async def send_version(_: web.Request, response: web.StreamResponse) -> None:
    """Add the version header to a response (a signal handler for `on_response_prepare`)."""
    response.headers[VERSION_HEADER] = VERSION


def _failure(error: Exception, request: web.Request) -> Failure:
    if isinstance(error, MirrorError):
        return Failure(error=str(error), kind=type(error).__name__)
    log.error("admin_request_failed", path=request.path, exc_info=error)
    message = f"the mirror failed at {request.path}: its log has the reason"
    return Failure(error=message, kind=type(error).__name__)


def _is_disconnection(error: Exception) -> bool:
    """Return whether the client closed the connection, in one task of the handler or in several."""
    if isinstance(error, ExceptionGroup):
        return all(map(_is_disconnection, error.exceptions))
    return isinstance(error, ConnectionError)
