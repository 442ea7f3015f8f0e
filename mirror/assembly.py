"""Assembly: constructs all parts of a mirror and nests their lifetimes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from mirror.admin.client import AdminClient
from mirror.admin.server import AdminServer
from mirror.admin.unix_socket import administered
from mirror.catalog.catalog import Catalog
from mirror.catalog.images import Images
from mirror.catalog.index_writer import ImageIndexWriter
from mirror.config import Settings, UpstreamSettings
from mirror.errors import StorageBusy
from mirror.maintenance.rebuild_facts import Rebuild
from mirror.maintenance.scrub import Scrub
from mirror.maintenance.tasks import maintained
from mirror.observability.metrics import Metrics
from mirror.oci.names import Upstreams, canonical_upstream
from mirror.primitives.fair_semaphore import FairSemaphore
from mirror.pull.downloads import Downloads
from mirror.pull.origins import Origins
from mirror.pull.service import PullService
from mirror.pull.warming import Warming
from mirror.storage.cache_files import DiskFiles
from mirror.storage.disk import DiskStore
from mirror.storage.fact_store import DiskFacts
from mirror.storage.layout import Layout
from mirror.storage.protocols import CacheFiles
from mirror.upstream.credentials.authorizer import Authorizer
from mirror.upstream.credentials.keychain import Keychain
from mirror.upstream.endpoint import Endpoint
from mirror.upstream.pull_quota import PullQuota
from mirror.upstream.registry import Registry
from mirror.upstream.session import Session

_STARTING = 5.0  # seconds that a mirror may take from its lock to its first answer
_POLL_INTERVAL = 0.1  # seconds
_WAITING = "a mirror command is using {}; serving starts when it ends"
_MARGIN = 1.0  # seconds: a pull ends after its longest upstream request, and before clients time out
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class MirrorParts:
    """The parts that serve clients and answer commands.

    Attributes:
        control: the path of the admin socket.
    """

    upstreams: Upstreams
    registries: Mapping[str, Registry]
    store: DiskStore
    pulls: PullService
    admin: AdminServer
    control: Path


def cache_files(directory: Path) -> CacheFiles:
    """Return the files of a cache directory, for reading beside the mirror of that directory."""
    return DiskFiles(directory)


@asynccontextmanager
async def assembled(settings: Settings, metrics: Metrics, *, serving: bool) -> AsyncIterator[MirrorParts]:
    """Assemble the one mirror of a cache directory, until the context ends.

    Args:
        serving: whether it also maintains the cache. For a command, blobs are evicted only to store others.

    Raises:
        StorageBusy: if another mirror uses the directory.
        MirrorError: if a part can't be constructed; the message says why.
    """
    async with AsyncExitStack() as lifetimes:
        layout = Layout(settings.cache.path)
        lifetimes.enter_context(layout.locked())
        facts = await lifetimes.enter_async_context(DiskFacts.open(layout.ledger))
        store = await lifetimes.enter_async_context(DiskStore.at(settings.cache, facts, metrics))
        rebuild = Rebuild(store, facts, store)
        await rebuild.names()
        registries = await lifetimes.enter_async_context(registries_of(settings, metrics))
        origins = Origins(
            downloads={upstream: [registry.origin] for upstream, registry in registries.items()},
            streams={upstream: [registry.origin.urgent] for upstream, registry in registries.items()},
        )
        downloads = await lifetimes.enter_async_context(Downloads(store, origins.for_downloads, metrics))
        catalog = Catalog(store, facts)
        pulls = await lifetimes.enter_async_context(
            PullService(
                registries,
                store,
                catalog,
                downloads,
                origins,
                settings.tags,
                deadline=settings.timeouts.first_byte + _MARGIN,
                offline=settings.server.offline,
            )
        )
        index = ImageIndexWriter(store, facts, store)
        images = await lifetimes.enter_async_context(Images(store, catalog, facts, index))
        rate = settings.cache.scrub_rate
        if serving:
            scrub = Scrub(store, facts, metrics, rate=rate) if rate else None
            await lifetimes.enter_async_context(maintained(store, facts, images, rebuild, scrub))
        else:
            await rebuild.manifests()
        log.info("store_opened", path=str(settings.cache.path), blobs=len(store), bytes=store.occupied)
        upstreams = Upstreams(settings.upstreams, default=settings.default_upstream)
        admin = AdminServer(upstreams, images, Warming(pulls, downloads, store), store, catalog, serving=serving)
        yield MirrorParts(upstreams, registries, store, pulls, admin, layout.control)


@asynccontextmanager
async def controlled(settings: Settings) -> AsyncIterator[AdminClient]:
    """Connect to the mirror of a cache directory: the one that runs, or one assembled until the context ends.

    Raises:
        MirrorError: if none runs, and none can be assembled.
    """
    path = Layout(settings.cache.path).control
    until = time.monotonic() + _STARTING
    async with AsyncExitStack() as lifetimes:
        while not await AdminClient.answers(path):
            try:
                parts = await lifetimes.enter_async_context(assembled(settings, Metrics(), serving=False))
                await lifetimes.enter_async_context(administered(parts.admin, path))
                break
            except StorageBusy:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(_POLL_INTERVAL)  # one may be starting: it holds the lock, but does not answer yet
        yield await lifetimes.enter_async_context(AdminClient.at(path))


@asynccontextmanager
async def assembled_in_turn(
    settings: Settings, metrics: Metrics, stop: asyncio.Event
) -> AsyncIterator[MirrorParts | None]:
    """Assemble the mirror that serves, after commands that use its cache; None if *stop* is set before.

    Raises:
        StorageBusy: if another mirror serves from the directory.
        MirrorError: if a part can't be constructed; the message says why.
    """
    path, parts, waits = Layout(settings.cache.path).control, None, False
    until = time.monotonic() + _STARTING
    async with AsyncExitStack() as lifetimes:
        while parts is None and not stop.is_set():
            try:
                parts = await lifetimes.enter_async_context(assembled(settings, metrics, serving=True))
            except StorageBusy:
                serves = await AdminClient.serves(path)
                if serves or (serves is None and time.monotonic() > until):
                    raise
                if serves is False:
                    until = time.monotonic() + _STARTING
                    (log.debug if waits else log.warning)("waiting", reason=_WAITING.format(settings.cache.path))
                    waits = True
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _POLL_INTERVAL)
        yield parts


@asynccontextmanager
async def registries_of(settings: Settings, metrics: Metrics) -> AsyncIterator[Mapping[str, Registry]]:
    """Open the registry clients of all upstreams, by upstream name."""
    async with AsyncExitStack() as lifetimes:
        keychain = await lifetimes.enter_async_context(Keychain(settings.credentials))
        yield {
            canonical_upstream(name): await lifetimes.enter_async_context(
                _registry(canonical_upstream(name), upstream, keychain, settings, metrics)
            )
            for name, upstream in settings.upstreams.items()
        }


@asynccontextmanager
async def _registry(
    name: str, upstream: UpstreamSettings, keychain: Keychain, settings: Settings, metrics: Metrics
) -> AsyncIterator[Registry]:
    timeouts = settings.timeouts
    async with Session.opened(name, upstream, timeouts, metrics) as session:
        endpoints = [
            Endpoint(
                name,
                url,
                session,
                Authorizer(name, url, keychain.source(name, upstream, url), session),
                metrics,
                is_only=len(upstream.addresses) == 1,
            )
            for url in upstream.addresses
        ]
        quota = PullQuota(name, settings.tags, metrics)
        slots = FairSemaphore(upstream.connections)
        async with Registry(name, endpoints, quota, slots, timeouts=timeouts, metrics=metrics) as registry:
            yield registry
