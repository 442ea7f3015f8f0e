"""An HTTP server on loopback with a journal and faults: the base of registries, CDNs and token services."""

import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Self

from aiohttp import web
from multidict import CIMultiDict

from tests.fake.answers import Answer
from tests.fake.faults import Fault, Rule
from tests.fake.journal import Journal, Seen


class Origin:
    """Listens on a free port; sends the responses of a subclass, modified by the injected faults."""

    def __init__(self) -> None:
        self.journal = Journal()
        self.host = "127.0.0.1"
        self.port = 0
        self._create_listener: Callable[[str, int], socket.socket] = _create_listener
        self._tls: ssl.SSLContext | None = None
        self._rules: list[Rule] = []
        self._site: web.SockSite | None = None
        application = web.Application()
        application.router.add_route("*", "/{any:.*}", self._serve)
        # Otherwise handlers that a fault blocks forever would delay the shutdown.
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.01)

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls,
        host: str = "127.0.0.1",
        *,
        listening: Callable[[str, int], socket.socket] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> AsyncIterator[Self]:
        """Run an origin until the block ends; *listening* creates the socket, possibly in another network namespace."""
        origin = cls()
        origin.host, origin._create_listener, origin._tls = host, listening or _create_listener, tls
        await origin._runner.setup()
        try:
            await origin.come_back()
            yield origin
        finally:
            origin._abort_connections()
            await origin._runner.cleanup()

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'http' if self._tls is None else 'https'}://{host}:{self.port}"

    async def go_down(self) -> None:
        """Refuse connections from now on, and abort the open ones."""
        if self._site is not None:
            await self._site.stop()
            self._site = None
        self._abort_connections()

    async def come_back(self) -> None:
        """Listen (again), on the same port."""
        if self._site is None:
            listener = self._create_listener(self.host, self.port)
            self._site = web.SockSite(self._runner, listener, ssl_context=self._tls)
            await self._site.start()
            self.port = listener.getsockname()[1]

    def inject(
        self,
        fault: Fault,
        path: str = "*",
        *,
        method: str | None = None,
        ranged: bool | None = None,
        times: int | None = None,
    ) -> None:
        """Apply *fault* to the next *times* (None: all) matching requests; all matching faults apply, in order."""
        self._rules.append(Rule(fault=fault, path=path, method=method, ranged=ranged, left=times))

    def heal(self) -> None:
        """Remove all faults."""
        self._rules.clear()

    async def respond(self, seen: Seen, body: bytes) -> Answer:
        """Return the correct response to this request."""
        raise NotImplementedError

    def exempt_from_faults(self, answer: Answer) -> bool:
        """Return whether faults leave this response alone."""
        return False

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        certified = bool(request.get_extra_info("peercert"))
        seen = Seen(method=request.method, target=request.raw_path, headers=request.headers, certified=certified)
        self.journal.open(seen)
        answer = await self.respond(seen, await request.read())
        if not self.exempt_from_faults(answer):
            for rule in self._rules:
                if rule.takes(seen):
                    rule.fault.apply(answer)
        return await answer.send(request, seen, self.journal)

    def _abort_connections(self) -> None:
        server = self._runner.server
        for connection in server.connections if server is not None else ():
            if connection.transport is not None:
                connection.transport.abort()


def _create_listener(host: str, port: int) -> socket.socket:
    return socket.create_server((host, port))


def problem(status: int, code: str, message: str) -> Answer:
    """Return an error in the format of the distribution spec."""
    body = f'{{"errors":[{{"code":"{code}","message":"{message}","detail":null}}]}}\n'.encode()
    answer = Answer.whole(body, status)
    answer.headers = CIMultiDict({"Content-Type": "application/json"})
    return answer
