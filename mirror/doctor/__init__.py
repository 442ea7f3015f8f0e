"""Doctor: check the configuration, disk, port, upstreams and clients of a mirror, and report a fix for each problem."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from mirror.config import Settings
from mirror.doctor.cache_disk import check_disk
from mirror.doctor.client_setup import check_clients
from mirror.doctor.finding import Finding, Verdict, ok, problem, worst
from mirror.doctor.port import check_port
from mirror.doctor.upstreams import check_upstreams
from mirror.errors import MirrorError
from mirror.server.auth import authentication
from mirror.server.tls import Certificate

__all__ = ["Finding", "Verdict", "diagnose", "problem", "worst"]


async def diagnose(settings: Settings, *, config: Path | None, root: Path) -> list[Finding]:
    """Run all checks and return their findings: configuration, disk, port, upstreams, clients.

    Args:
        config: the configuration file, for the message; None if there is none.
        root: the directory below which the clients' configuration files are, normally `/`.
    """
    configuration, disk, port, upstreams, clients = await asyncio.gather(
        _check_configuration(settings, config),
        asyncio.to_thread(check_disk, settings.cache),
        check_port(settings),
        check_upstreams(settings),
        asyncio.to_thread(check_clients, settings, root),
    )
    return [*configuration, *disk, port, *upstreams, *clients]


async def _check_configuration(settings: Settings, config: Path | None) -> list[Finding]:
    """Check the files that the configuration names. The configuration itself is valid: it became *settings*."""
    found: list[Finding] = []
    for opened in (_certificate(settings), authentication(settings.clients, settings.access)):
        try:
            async with opened:
                pass
        except MirrorError as error:  # checked separately, to report all faults at once
            found.append(problem("configuration", str(error), "correct that file, or name another one"))
    names = ", ".join(settings.upstreams)
    return found or [ok("configuration", f"{config or 'the defaults'}: upstreams {names}")]


@asynccontextmanager
async def _certificate(settings: Settings) -> AsyncIterator[None]:
    Certificate.configured(settings.server, settings.clients)
    yield
