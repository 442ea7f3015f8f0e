"""Periodic maintenance of the cache: repair, last uses, index.json, max_size and min_free, and the scrub."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from mirror.catalog.images import Images
from mirror.errors import MirrorError, NoSpace, StorageFailed
from mirror.maintenance.rebuild_facts import Rebuild
from mirror.maintenance.scrub import Scrub
from mirror.observability.log import RateLimitedLog
from mirror.storage.protocols import BlobStore, FactStore

_INTERVAL = 30.0  # seconds; a crash loses the last uses of this time
_MAX_INGEST_AGE = 86_400.0  # seconds for which the bytes of an interrupted download are kept
log = structlog.get_logger()
rate_limited_log = RateLimitedLog(log)


@asynccontextmanager
async def maintained(
    store: BlobStore, facts: FactStore, images: Images, rebuild: Rebuild, scrub: Scrub | None
) -> AsyncIterator[None]:
    """Run maintenance until the context ends.

    Args:
        images: the images, with their pins already held: content above max_size is evicted at once.
        scrub: None to search for no damage.
    """
    try:
        await store.reserve(0)  # max_size may be smaller than before
    except (NoSpace, StorageFailed) as error:
        log.warning("cache_too_full", reason=str(error))
    tasks = [asyncio.create_task(_run(store, facts, images, rebuild), name="maintenance")]
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
            await asyncio.sleep(_INTERVAL)


async def _run(store: BlobStore, facts: FactStore, images: Images, rebuild: Rebuild) -> None:
    async def forget_ingests() -> None:
        await store.forget_ingests(older_than=_MAX_INGEST_AGE)

    async def enforce_limits() -> None:
        await store.reserve(0)  # other programs may have filled the disk: min_free holds for them too

    while True:
        for step in (
            store.mend,
            facts.mend,
            rebuild.run,
            images.hold_pinned,  # their tags may have moved
            forget_ingests,
            enforce_limits,
            store.flush,
        ):
            await _attempt(step, store.failed)
        await _attempt(images.save_changed, _note_unwritten_index)
        await asyncio.sleep(_INTERVAL)


async def _attempt(step: Callable[[], Awaitable[None]], failed: Callable[[StorageFailed], None]) -> None:
    """Run one step. Its failure is reported, and the later steps run all the same."""
    try:
        await step()
    except NoSpace as error:
        rate_limited_log.warning("disk_too_full", reason=str(error))
    except StorageFailed as error:
        failed(error)
    except MirrorError as error:
        rate_limited_log.warning("maintenance_failed", reason=str(error))
    except Exception:
        log.exception("maintenance_crashed")


def _note_unwritten_index(error: StorageFailed) -> None:
    rate_limited_log.warning("index_not_written", reason=str(error))
