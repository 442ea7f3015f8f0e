"""The listener: a port, and the connections to it."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from aiohttp import web

from mirror.config import ServerSettings
from mirror.errors import ConfigurationInvalid
from mirror.server.app import App

_KEEP_ALIVE = 75.0  # seconds; longer than clients keep idle connections, so that they are the ones to close
_CURES = {
    errno.EADDRINUSE: "another program listens there; stop it, or choose another port with --listen",
    errno.EACCES: "ports below 1024 are for root; choose another with --listen",
    errno.EADDRNOTAVAIL: "this machine has no such address; 0.0.0.0 means all that it has",
}
log = structlog.get_logger()


@asynccontextmanager
async def listening(app: App, settings: ServerSettings, *, shutdown: float) -> AsyncIterator[str]:
    """Listens until the context ends; then lets running answers end, for *shutdown* seconds at most.

    Yields:
        the address, as a URL.

    Raises:
        ConfigurationInvalid: nobody can listen there.
    """
    server = web.Server(app.handle, handler_cancellation=True, access_log=None, keepalive_timeout=_KEEP_ALIVE)
    # aiohttp waits twice: for answers to end, and then again before it cancels them.
    runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=shutdown / 2)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            cure = _CURES.get(error.errno or 0, "see --listen")
            raise ConfigurationInvalid(
                f"can't listen on {settings.listen}: {error.strerror or error}; {cure}"
            ) from error
        host, port = runner.addresses[0][:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        log.info("listening", url=url)
        yield url
    finally:
        log.info("stopping", seconds_at_most=shutdown)
        await runner.cleanup()
