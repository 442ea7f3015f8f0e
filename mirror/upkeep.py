"""The clock: what has to be done now and then, whether anybody pulls or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

from mirror.errors import MirrorError, NoRoom
from mirror.storage.disk import DiskStore

_EVERY = 30.0  # seconds; what a crash can lose of the order of last use
_FORGOTTEN = 86_400.0  # seconds after which nobody comes back for a broken-off download
log = structlog.get_logger()


@asynccontextmanager
async def upkeep(store: DiskStore) -> AsyncIterator[None]:
    """Keeps *store* in order until the context ends."""
    task = asyncio.create_task(_run(store), name="upkeep")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _run(store: DiskStore) -> None:
    while True:
        await asyncio.sleep(_EVERY)
        try:
            await store.flush()
            await store.forget_ingests(older_than=_FORGOTTEN)
            await store.make_room(0)  # others may have filled the disk: min_free holds for them too
        except NoRoom as error:
            log.warning("disk_too_full", reason=str(error))
        except MirrorError as error:
            log.warning("upkeep_failed", reason=str(error))
        except Exception:
            log.exception("upkeep_crashed")  # and goes on: without it nothing is written down any more
