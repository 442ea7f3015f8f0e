"""Examination: whether all that the mirror needs is there, seen from its user's side, and what cures what is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from mirror.config import Settings
from mirror.doctor.cache_disk import examine_disk
from mirror.doctor.client_setup import examine_clients
from mirror.doctor.finding import Finding, Verdict, ok, problem, worst
from mirror.doctor.port import examine_port
from mirror.doctor.upstreams import examine_upstreams
from mirror.errors import MirrorError
from mirror.server.auth import door
from mirror.server.tls import Certificate

__all__ = ["Finding", "Verdict", "examine", "problem", "worst"]


async def examine(settings: Settings, *, config: Path | None, root: Path) -> list[Finding]:
    """All findings, in the order in which a user meets what they are about.

    Args:
        root: where the clients' files are looked for.
    """
    configuration, disk, port, upstreams, clients = await asyncio.gather(
        _examine_configuration(settings, config),
        asyncio.to_thread(examine_disk, settings.cache),
        examine_port(settings),
        examine_upstreams(settings),
        asyncio.to_thread(examine_clients, settings, root),
    )
    return [*configuration, *disk, port, *upstreams, *clients]


async def _examine_configuration(settings: Settings, config: Path | None) -> list[Finding]:
    """The files that it names; it was read itself, or there would be no settings."""
    found: list[Finding] = []
    for opened in (_certificate(settings), door(settings.clients, settings.access)):
        try:
            async with opened:
                pass
        except MirrorError as error:  # each by itself: nobody wants to start, and read of the next one, time and again
            found.append(problem("configuration", str(error), "mend that file, or name another one"))
    names = ", ".join(settings.upstreams)
    return found or [ok("configuration", f"{config or 'the defaults'}: upstreams {names}")]


@asynccontextmanager
async def _certificate(settings: Settings) -> AsyncIterator[None]:
    Certificate.configured(settings.server, settings.clients)
    yield
