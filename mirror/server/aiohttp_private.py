"""The private attributes of aiohttp's `web.RequestHandler` that the server reads. No other server module may read any.

aiohttp may change private names in any minor release: `pyproject.toml` allows one minor release only, and
`tests/unit/server/test_aiohttp_private.py` lists each name with its reason and fails if aiohttp lacks one.
"""

from __future__ import annotations

from typing import Protocol

from aiohttp import web

_parse = web.RequestHandler.data_received  # runs for each request: looked up once


class RequestBody(Protocol):
    """The part of aiohttp's StreamReader that the server uses."""

    def is_eof(self) -> bool: ...


class InspectableHandler(web.RequestHandler):
    """A request handler whose state a subclass can read."""

    __slots__ = ()

    @property
    def is_answering(self) -> bool:
        """Return whether a request is being answered: the connection's task exists and does not wait for a request."""
        task, waiter = self._task_handler, self._waiter
        return task is not None and not task.done() and (waiter is None or waiter.done())

    @property
    def answered_at(self) -> float:
        """Return the time on the event loop's clock when the last response ended."""
        return self._next_keepalive_close_time - self._keepalive_timeout

    @property
    def queued_requests(self) -> int:
        """Return how many parsed requests wait for the response to an earlier one."""
        return len(self._messages)

    def queued_header_bytes(self) -> int:
        """Return the size of the headers of these requests."""
        heads = (message.raw_headers for message, _ in self._messages if hasattr(message, "raw_headers"))
        return sum(len(name) + len(value) for head in heads for name, value in head)

    def data_received(self, data: bytes) -> None:
        before = self._request_count
        _parse(self, data)
        if self._request_count == before:
            self.partial_request_received(len(data))
        else:
            self.requests_received(self._messages[-1][1])

    def partial_request_received(self, size: int) -> None:
        """Handle *size* bytes that ended no request head; 0 when aiohttp only resumes a paused parser."""

    def requests_received(self, body: RequestBody) -> None:
        """Handle one or more parsed requests; *body* is that of the last one."""
