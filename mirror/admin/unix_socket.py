"""The Unix socket in the cache directory at which the admin server listens.

The socket is a file of mode 0600 (umask 0177): only its owner and root can open it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from aiohttp import web

from mirror.admin.server import AdminServer
from mirror.storage.layout import storage_errors

_SHUTDOWN = 1.0  # seconds for requests in progress: aiohttp drops the rest of an upload, and a command can be repeated


@asynccontextmanager
async def administered(admin: AdminServer, path: Path) -> AsyncIterator[None]:
    """Answer admin requests at the socket *path* until the context ends. The caller holds the cache's lock.

    Raises:
        StorageFailed: if the socket can't be made.
    """
    runner = web.AppRunner(
        admin.application(),
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,
        shutdown_timeout=_SHUTDOWN,
    )
    await runner.setup()
    directory = -1
    try:
        with storage_errors(f"the socket {path}, where the mirror answers its own commands, can't be made"):
            directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            await _bind(runner, path, directory)
        yield
    finally:
        await runner.cleanup()
        with suppress(OSError):
            os.unlink(path)
        if directory >= 0:
            os.close(directory)


async def _bind(runner: web.AppRunner, path: Path, directory: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
    before = os.umask(0o177)
    try:
        # A socket's address has at most 107 characters; through /proc it stays short for every cache directory.
        await web.UnixSite(runner, f"/proc/self/fd/{directory}/{path.name}").start()
    finally:
        os.umask(before)
