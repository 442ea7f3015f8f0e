"""Builds the parts, nests their lifetimes, and runs them."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TypeVar

import structlog
import uvloop

from mirror.admin.client import AdminClient
from mirror.admin.server import administered
from mirror.assembly import assembled_in_turn, controlled, registries_of
from mirror.auth.login_throttle import FailedLoginLimiter
from mirror.cli import command_line
from mirror.cli.progress import Progress
from mirror.cli.stdout import output_told
from mirror.config import Settings
from mirror.doctor import Finding, diagnose
from mirror.errors import ConfigurationInvalid, MirrorError
from mirror.maintenance.verify import CacheVerification, Findings
from mirror.observability import log as events
from mirror.observability.metrics import Metrics
from mirror.oci.names import canonical_upstream
from mirror.server.app import App
from mirror.server.auth import door
from mirror.server.listener import listening
from mirror.server.tls import Certificate
from mirror.server.token_service import TokenService
from mirror.storage.fact_store import DiskFacts
from mirror.storage.layout import Layout
from mirror.upstream.client_authorization import ClientAuthorization
from mirror.upstream.registry import Registry

_Result = TypeVar("_Result")
_GARBAGE = 20_000  # objects between two collections; hits make many, and hardly any in circles
log = structlog.get_logger()


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, and waits for running answers then, until a second SIGINT; SIGHUP reads anew.

    Raises:
        MirrorError: it can't start; the message says why.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, _interrupt, stop, hurry)
    reloads: list[Callable[[], None]] = []
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload, reloads)
    certificate = Certificate.configured(settings.server, settings.clients)
    if certificate is not None:
        reloads.append(certificate.reload)
    metrics = Metrics()
    metrics.tasks.set_function(lambda: len(asyncio.all_tasks()))
    async with AsyncExitStack() as lifetimes:
        entrance = await lifetimes.enter_async_context(door(settings.clients, settings.access))
        if entrance is not None:
            reloads.append(entrance.reload)
        parts = await lifetimes.enter_async_context(assembled_in_turn(settings, metrics, stop))
        if parts is None:
            return
        tokens = await _token_service(lifetimes, settings, parts.registries)
        app = App(
            parts.upstreams,
            parts.pulls,
            parts.registries,
            metrics,
            cache=parts.store.health,
            authenticator=entrance,
            tokens=tokens,
        )
        await lifetimes.enter_async_context(administered(parts.admin, Layout(settings.cache.path).control))
        gc.freeze()  # what was made until now stays: no need to look through it time and again
        gc.enable()
        gc.set_threshold(_GARBAGE)
        await lifetimes.enter_async_context(
            listening(
                *(app, settings.server, settings.limits, certificate, metrics),
                shutdown=settings.timeouts.shutdown,
                hurry=hurry,
            )
        )
        await stop.wait()
    log.info("stopped")


async def verify(settings: Settings, *, repair: bool, jobs: int) -> Findings:
    """Looks at all that is stored, until it has seen all or is told to stop.

    Raises:
        MirrorError: it can't be done; the message says why.
    """
    if repair and settings.server.offline:
        raise ConfigurationInvalid("--repair asks upstreams, which server.offline forbids: leave one of them out")
    layout = Layout(settings.cache.path)
    layout.identity()
    async with AsyncExitStack() as lifetimes:
        ledger = await lifetimes.enter_async_context(DiskFacts.beside(layout.ledger))
        registries = await lifetimes.enter_async_context(registries_of(settings, Metrics())) if repair else None
        verification = CacheVerification(layout, ledger, registries, jobs=jobs)
        progress = lifetimes.enter_context(Progress("verifying", 0))
        running = asyncio.create_task(verification.run(progress))

        def stop() -> None:
            verification.stop()
            running.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        with suppress(asyncio.CancelledError):
            await running
        return verification.findings


def _interrupt(stop: asyncio.Event, hurry: asyncio.Event) -> None:
    """Ctrl-C; and once more, by who does not want to wait."""
    if stop.is_set():
        hurry.set()
    stop.set()


def _reload(reloads: Iterable[Callable[[], None]]) -> None:
    """Each by itself: what is broken stays as it was, and keeps nothing else from being read."""
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
    """The clients of upstreams that decide themselves who may pull; None where none does."""
    passing = [canonical_upstream(name) for name, one in settings.upstreams.items() if one.client_auth == "passthrough"]
    if not passing:
        return None
    if settings.server.offline:
        raise ConfigurationInvalid(
            f'upstreams.{passing[0]!r}: client_auth = "passthrough" asks upstream who may pull, and offline nobody '
            f'is asked: set client_auth = "mirror" (everybody may), or take --offline away'
        )
    tenancy = ClientAuthorization(
        {name: registries[name] for name in passing},
        allowed_for=settings.clients.verdict_for,
        refused_for=settings.tags.missing_for,
    )
    default = canonical_upstream(settings.default_upstream or passing[0])
    named = default if default in passing else passing[0]
    return TokenService(await lifetimes.enter_async_context(tenancy), FailedLoginLimiter(), named)


async def ask(settings: Settings, job: Callable[[AdminClient], Awaitable[_Result]]) -> _Result:
    """Does *job* with the mirror that holds the cache.

    Raises:
        MirrorError: it can't be done; the message says why.
    """
    async with controlled(settings) as control:
        return await job(control)


class _Programs:
    """What the commands do; each in a loop of its own."""

    def serve(self, settings: Settings, /) -> None:
        events.configure(level=settings.log.level, format=settings.log.format)
        gc.disable()  # until all is loaded: with 100,000 blobs a fifth of the start would go into looking for garbage
        uvloop.run(serve(settings))

    def verify(self, settings: Settings, /, *, repair: bool, jobs: int) -> Findings:
        _log_errors_only(settings)
        return uvloop.run(verify(settings, repair=repair, jobs=jobs))

    def diagnose(self, settings: Settings, /, *, config: Path | None, root: Path) -> list[Finding]:
        _log_errors_only(settings)
        return uvloop.run(diagnose(settings, config=config, root=root))

    def ask(self, settings: Settings, job: Callable[[AdminClient], Awaitable[_Result]], /) -> _Result:
        _log_errors_only(settings)
        return uvloop.run(ask(settings, job))


def _log_errors_only(settings: Settings) -> None:
    """Configure logging for a command, which prints its own results."""
    events.configure(level="error", format=settings.log.format)


def main() -> None:
    """The program."""
    with output_told():
        command_line(_Programs())()


if __name__ == "__main__":
    main()
