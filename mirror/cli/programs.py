"""The programs behind the commands. Each builds the parts of a mirror and runs them in an event loop.

Commands import this module in their bodies only: it loads everything. See `mirror.cli`.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TypeVar

import structlog
import uvloop

from mirror import doctor
from mirror.admin.client import AdminClient
from mirror.admin.protocol import RepairRequest
from mirror.admin.unix_socket import administered
from mirror.assembly import assembled_in_turn, cache_files, controlled
from mirror.auth.login_throttle import FailedLoginLimiter
from mirror.cli.progress import Progress
from mirror.config import Settings
from mirror.errors import ConfigurationInvalid, MirrorError
from mirror.maintenance.verify import CacheVerification, Damage, Findings, RepairResult
from mirror.observability import log as events
from mirror.observability.metrics import Metrics
from mirror.oci.names import canonical_upstream
from mirror.server.app import App
from mirror.server.auth import authentication
from mirror.server.listener import listening
from mirror.server.tls import Certificate
from mirror.server.token_service import TokenService
from mirror.upstream.client_authorization import ClientAuthorization
from mirror.upstream.registry import Registry

_Result = TypeVar("_Result")
_GC_THRESHOLD = 20_000  # allocations between two collections: hits make many objects, and hardly any cycles
log = structlog.get_logger()


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        MirrorError: if the mirror can't start.
    """
    events.configure(level=settings.log.level, format=settings.log.format)
    gc.disable()  # until everything is loaded: with 100,000 blobs, collections take a fifth of the start
    uvloop.run(_serve(settings))


def verify(settings: Settings, *, repair: bool, jobs: int) -> Findings:
    """Check all stored content, until everything is read or a signal stops it.

    Raises:
        MirrorError: if the check can't run.
    """
    _log_errors_only(settings)
    return _run(_verify(settings, repair=repair, jobs=jobs))


def diagnose(settings: Settings, *, config: Path | None, root: Path) -> list[doctor.Finding]:
    """Check everything that the mirror needs."""
    _log_errors_only(settings)
    return _run(doctor.diagnose(settings, config=config, root=root))


def run_with_client(settings: Settings, job: Callable[[AdminClient], Awaitable[_Result]]) -> _Result:
    """Run *job* with a client of the process that has locked the cache, and return its result.

    If no mirror is running, this opens the cache itself until the job ends.

    Raises:
        MirrorError: if the cache can't be opened, or the job fails.
    """

    async def run() -> _Result:
        async with controlled(settings) as client:
            return await job(client)

    _log_errors_only(settings)
    return _run(run())


def _run(main: Coroutine[object, None, _Result]) -> _Result:
    """Run a command's coroutine, and return its result.

    Raises:
        KeyboardInterrupt: at SIGINT. If that arrives while the loop ends, uvloop reports that it can't close the loop.
    """
    try:
        return uvloop.run(main)
    except RuntimeError as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise


def _log_errors_only(settings: Settings) -> None:
    """Configure logging for a command, which prints its own results."""
    events.configure(level="error", format=settings.log.format)


async def _serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then finish the running responses, until a second SIGINT. SIGHUP reloads files."""
    stop, hurry = asyncio.Event(), asyncio.Event()
    reloads: list[Callable[[], None]] = []
    _handle_signals(stop, hurry, reloads)
    certificate = Certificate.configured(settings.server, settings.clients)
    if certificate is not None:
        reloads.append(certificate.reload)
    metrics = Metrics()
    metrics.tasks.set_function(lambda: len(asyncio.all_tasks()))
    async with AsyncExitStack() as lifetimes:
        authenticator = await lifetimes.enter_async_context(authentication(settings.clients, settings.access))
        if authenticator is not None:
            reloads.append(authenticator.reload)
        parts = await lifetimes.enter_async_context(assembled_in_turn(settings, metrics, stop))
        if parts is None:
            return
        tokens = await _token_service(lifetimes, settings, parts.registries)
        app = App(
            *(parts.upstreams, parts.pulls, parts.registries, metrics),
            cache=parts.store.health,
            authenticator=authenticator,
            tokens=tokens,
        )
        await lifetimes.enter_async_context(administered(parts.admin, parts.control))
        gc.freeze()  # objects made so far live as long as the mirror: collections skip them
        gc.enable()
        gc.set_threshold(_GC_THRESHOLD)
        await lifetimes.enter_async_context(
            listening(
                *(app, settings.server, settings.limits, certificate, metrics),
                shutdown=settings.timeouts.shutdown,
                hurry=hurry,
            )
        )
        await stop.wait()
    log.info("stopped")


def _handle_signals(stop: asyncio.Event, hurry: asyncio.Event, reloads: Iterable[Callable[[], None]]) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, _interrupt, stop, hurry)
    loop.add_signal_handler(signal.SIGHUP, _reload, reloads)


async def _verify(settings: Settings, *, repair: bool, jobs: int) -> Findings:
    if repair and settings.server.offline:
        raise ConfigurationInvalid(
            "--repair downloads from upstreams, which server.offline forbids: remove one of them"
        )
    async with AsyncExitStack() as lifetimes:
        mirror = _LazyClient(settings, lifetimes)

        async def repair_blob(damage: Damage) -> RepairResult:
            client = await mirror.client()
            result = await client.repair(
                RepairRequest(
                    digest=damage.digest,
                    reason=damage.reason,
                    device=damage.device,
                    inode=damage.inode,
                    fetch=repair,
                )
            )
            return RepairResult(result.images, result.fetched_from, result.failures)

        progress = lifetimes.enter_context(Progress("verifying", 0))
        verification = CacheVerification(cache_files(settings.cache.path), repair_blob, progress, jobs=jobs)
        running = asyncio.create_task(verification.run())

        def stop() -> None:
            verification.stop()
            running.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        with suppress(asyncio.CancelledError):
            await running
        return verification.findings


class _LazyClient:
    """A client of the process that has locked the cache, opened at the first damage: an intact cache is only read."""

    def __init__(self, settings: Settings, lifetimes: AsyncExitStack) -> None:
        self._settings = settings
        self._lifetimes = lifetimes
        self._opening = asyncio.Lock()
        self._client: AdminClient | None = None

    async def client(self) -> AdminClient:
        async with self._opening:
            if self._client is None:
                self._client = await self._lifetimes.enter_async_context(controlled(self._settings))
            return self._client


def _interrupt(stop: asyncio.Event, hurry: asyncio.Event) -> None:
    """The first SIGINT starts a graceful shutdown; a second one aborts the responses in flight."""
    if stop.is_set():
        hurry.set()
    stop.set()


def _reload(reloads: Iterable[Callable[[], None]]) -> None:
    """Reload each file. A broken file keeps its previous content in force and does not stop the others."""
    failed = False
    for reload in reloads:
        try:
            reload()
        except MirrorError as error:
            failed = True
            log.warning("reload_failed", reason=str(error))
    if not failed:
        log.info("reloaded")


async def _token_service(
    lifetimes: AsyncExitStack, settings: Settings, registries: Mapping[str, Registry]
) -> TokenService | None:
    """Return the token service for upstreams with `client_auth = "passthrough"`; None if there is no such upstream."""
    passing = [canonical_upstream(name) for name, one in settings.upstreams.items() if one.client_auth == "passthrough"]
    if not passing:
        return None
    if settings.server.offline:
        raise ConfigurationInvalid(
            f'upstreams.{passing[0]!r}: client_auth = "passthrough" needs the upstream to authorize each client, and '
            f'--offline forbids requests to it: set client_auth = "mirror" (all clients may pull), or remove --offline'
        )
    authorization = ClientAuthorization(
        {name: registries[name] for name in passing},
        allowed_for=settings.clients.verdict_for,
        refused_for=settings.tags.missing_for,
    )
    default = canonical_upstream(settings.default_upstream or passing[0])
    named = default if default in passing else passing[0]
    return TokenService(await lifetimes.enter_async_context(authorization), FailedLoginLimiter(), named)
