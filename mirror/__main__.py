"""Builds the parts, nests their lifetimes, and runs them."""

from __future__ import annotations

import asyncio
import gc
import signal
from contextlib import AsyncExitStack

import structlog
import uvloop

from mirror import log as events
from mirror.cli import command_line
from mirror.config import Settings, TimeoutSettings, UpstreamSettings
from mirror.downloads import Downloads
from mirror.metrics import Metrics
from mirror.oci.names import Upstreams, canonical_upstream
from mirror.pulls import Pulls
from mirror.server.app import App
from mirror.server.listener import listening
from mirror.storage.catalog import Catalog
from mirror.storage.disk import DiskStore
from mirror.storage.layout import Layout
from mirror.storage.ledger import DiskLedger
from mirror.upkeep import upkeep
from mirror.upstream.authorizer import Authorizer, Credentials
from mirror.upstream.registry import Registry
from mirror.upstream.session import Session

_LAST_MOMENT = 1.0  # seconds: a pull ends after its longest question, and before clients think of ending it
_GARBAGE = 20_000  # objects between two collections; hits make many, and hardly any in circles
log = structlog.get_logger()


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        MirrorError: it can't start; the message says why.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics = Metrics()
    async with AsyncExitStack() as lifetimes:
        layout = Layout(settings.cache.path)
        lifetimes.enter_context(layout.locked())
        ledger = await lifetimes.enter_async_context(DiskLedger.open(layout.ledger))
        store = await lifetimes.enter_async_context(DiskStore.at(settings.cache, ledger, metrics))
        session = await lifetimes.enter_async_context(Session.opened(settings.timeouts, metrics))
        registries = {
            canonical_upstream(name): await lifetimes.enter_async_context(
                _registry(canonical_upstream(name), upstream, session, settings.timeouts, metrics)
            )
            for name, upstream in settings.upstreams.items()
        }
        downloads = await lifetimes.enter_async_context(Downloads(store, metrics))
        pulls = await lifetimes.enter_async_context(
            Pulls(
                registries,
                store,
                Catalog(store, ledger),
                downloads,
                settings.tags,
                patience=settings.timeouts.first_byte + _LAST_MOMENT,
                offline=settings.server.offline,
            )
        )
        await lifetimes.enter_async_context(upkeep(store))
        log.info("store_opened", path=str(settings.cache.path), blobs=len(store), bytes=store.occupied)
        app = App(Upstreams(settings.upstreams, default=settings.default_upstream), pulls, registries, metrics)
        gc.freeze()  # what was made until now stays: no need to look through it time and again
        gc.enable()
        gc.set_threshold(_GARBAGE)
        await lifetimes.enter_async_context(listening(app, settings.server, shutdown=settings.timeouts.shutdown))
        await stop.wait()
    log.info("stopped")


def _registry(
    name: str, settings: UpstreamSettings, session: Session, timeouts: TimeoutSettings, metrics: Metrics
) -> Registry:
    password = settings.password()
    known = settings.username is not None and password is not None
    credentials = Credentials(settings.username or "", password or "") if known else None
    authorizer = Authorizer(name, settings.url, credentials, session)
    return Registry(name, settings.url, session, authorizer, timeouts=timeouts, metrics=metrics)


def main() -> None:
    """The program."""

    def run(settings: Settings) -> None:
        events.configure(settings.log)
        gc.disable()  # until all is loaded: with 100,000 blobs a fifth of the start would go into looking for garbage
        uvloop.run(serve(settings))

    command_line(run)()


if __name__ == "__main__":
    main()
