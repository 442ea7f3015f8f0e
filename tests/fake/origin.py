"""A server on loopback with a journal and faults: what registries, CDNs and token servers have in common."""

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
    """Listens on a free port; answers what a subclass says, bent by the faults that were set."""

    def __init__(self) -> None:
        self.journal = Journal()
        self.host = "127.0.0.1"
        self.port = 0
        self._listening: Callable[[str, int], socket.socket] = _listening
        self._tls: ssl.SSLContext | None = None
        self._rules: list[Rule] = []
        self._site: web.SockSite | None = None
        application = web.Application()
        application.router.add_route("*", "/{any:.*}", self._serve)
        # Handlers that a fault holds for ever would otherwise make the end wait for them.
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
        """An origin that listens, until the block ends; *listening* makes the socket, perhaps in another network."""
        origin = cls()
        origin.host, origin._listening, origin._tls = host, listening or _listening, tls
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
        """Refuse connections from now on, and break those that stand."""
        if self._site is not None:
            await self._site.stop()
            self._site = None
        self._abort_connections()

    async def come_back(self) -> None:
        """Listen (again), on the same port."""
        if self._site is None:
            listener = self._listening(self.host, self.port)
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
        """Let *fault* befall the next *times* requests (None: all) that match; all matching faults bend, in order."""
        self._rules.append(Rule(fault=fault, path=path, method=method, ranged=ranged, left=times))

    def heal(self) -> None:
        """Take all faults away."""
        self._rules.clear()

    async def respond(self, seen: Seen, body: bytes) -> Answer:
        """The right answer to this request."""
        raise NotImplementedError

    def spared(self, answer: Answer) -> bool:
        """Whether faults leave this answer alone."""
        return False

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        certified = bool(request.get_extra_info("peercert"))
        seen = Seen(method=request.method, target=request.raw_path, headers=request.headers, certified=certified)
        self.journal.open(seen)
        answer = await self.respond(seen, await request.read())
        if not self.spared(answer):
            for rule in self._rules:
                if rule.takes(seen):
                    rule.fault.bend(answer)
        return await answer.send(request, seen, self.journal)

    def _abort_connections(self) -> None:
        server = self._runner.server
        for connection in server.connections if server is not None else ():
            if connection.transport is not None:
                connection.transport.abort()


def _listening(host: str, port: int) -> socket.socket:
    return socket.create_server((host, port))


def problem(status: int, code: str, message: str) -> Answer:
    """An error as the distribution spec writes it."""
    body = f'{{"errors":[{{"code":"{code}","message":"{message}","detail":null}}]}}\n'.encode()
    answer = Answer.whole(body, status)
    answer.headers = CIMultiDict({"Content-Type": "application/json"})
    return answer
