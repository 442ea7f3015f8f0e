"""The clock: what has to be done now and then, whether anybody pulls or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from mirror.catalog.images import Images
from mirror.errors import MirrorError, NoSpace, StorageFailed
from mirror.maintenance.rebuild_index import rebuild
from mirror.maintenance.scrub import Scrub
from mirror.observability.log import RateLimitedLog
from mirror.storage.disk import DiskStore
from mirror.storage.layout import Layout
from mirror.storage.ledger import DiskLedger

_EVERY = 30.0  # seconds; what a crash can lose of the order of last use
_FORGOTTEN = 86_400.0  # seconds after which nobody comes back for a broken-off download
log = structlog.get_logger()
rate_limited_log = RateLimitedLog(log)


@asynccontextmanager
async def upkeep(
    store: DiskStore, layout: Layout, ledger: DiskLedger, images: Images, scrub: Scrub | None
) -> AsyncIterator[None]:
    """Keeps a store and its ledger in order until the context ends.

    Args:
        images: whose pins are held already: what max_size and min_free want gone goes at once.
        scrub: None where nobody is to look for damage.
    """
    try:
        await store.make_room(0)  # max_size may be smaller than it was
    except (NoSpace, StorageFailed) as error:
        log.warning("cache_too_full", reason=str(error))
    tasks = [asyncio.create_task(_run(store, layout, ledger, images), name="upkeep")]
    if scrub is not None:
        tasks.append(asyncio.create_task(_scrub(scrub), name="scrub"))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _scrub(scrub: Scrub) -> None:
    while True:
        try:
            await scrub.run()
        except Exception:
            log.exception("scrub_crashed")
            await asyncio.sleep(_EVERY)


async def _run(store: DiskStore, layout: Layout, ledger: DiskLedger, images: Images) -> None:
    while True:
        try:
            await store.check()
            await ledger.mend()
            await rebuild(store, layout, ledger)
            await images.hold_pinned()  # their tags may have moved
            await store.flush()
            await store.forget_ingests(older_than=_FORGOTTEN)
            await store.make_room(0)  # others may have filled the disk: min_free holds for them too
        except NoSpace as error:
            rate_limited_log.warning("disk_too_full", reason=str(error))
        except StorageFailed as error:
            store.condition.failed(error)
        except MirrorError as error:
            rate_limited_log.warning("maintenance_failed", reason=str(error))
        except Exception:
            log.exception("maintenance_crashed")  # and goes on: without it nothing is written down any more
        await asyncio.sleep(_EVERY)
