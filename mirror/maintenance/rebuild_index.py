"""Rebuilding: what a ledger that was lost knew of the blobs, found out from the blobs themselves.

That is which of them are manifests, of which media type, and what they reference. Tags are asked upstream again. So
are rights: which repository holds what stands in no blob, and nothing is served under a repository on a guess.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial

import structlog

from mirror.oci.digest import Digest
from mirror.oci.manifest import LARGEST, Manifest
from mirror.storage.disk import DiskStore
from mirror.storage.facts import ManifestFact
from mirror.storage.layout import Layout
from mirror.storage.ledger import DiskLedger

_AT_ONCE = 256  # blobs
_BEGIN = 16  # bytes, enough to tell JSON from an archive
log = structlog.get_logger()


async def rebuild(store: DiskStore, layout: Layout, ledger: DiskLedger) -> None:
    """Brings into *ledger* what can be found out from the blobs, unless it has that."""
    if await ledger.is_whole():
        return
    small = [digest for digest in store.digests() if (store.size(digest) or 0) < LARGEST]
    found = 0
    for at in range(0, len(small), _AT_ONCE):
        facts = await asyncio.to_thread(partial(_facts, layout, small[at : at + _AT_ONCE]))
        if not await ledger.add_manifests(facts):
            return  # the next time
        found += len(facts)
    await ledger.keep_whole()
    if small:
        log.warning("ledger_rebuilt", blobs=len(store), manifests=found, reason="it was new, and the blobs were not")


def _facts(layout: Layout, digests: Iterable[Digest]) -> dict[Digest, ManifestFact]:
    """What those of *digests* that are manifests say of themselves. What can't be read, or is damaged, says nothing."""
    found = {}
    for digest in digests:
        body = _json(layout.blob(digest))
        manifest = Manifest.read(digest, body, None)
        if manifest.references and Digest.of(body, digest.algorithm) == digest:
            references = tuple(reference.digest for reference in manifest.references)
            found[digest] = ManifestFact(manifest.head.media_type or "", references)
    return found


def _json(path: str) -> bytes:
    """A file that may be JSON; empty for another."""
    try:
        with open(path, "rb", buffering=0) as file:
            begin = file.read(_BEGIN)
            return begin + file.read() if begin.lstrip().startswith(b"{") else b""
    except OSError:
        return b""
