"""LRU eviction: chooses the blobs to remove. Pure. `lru_inventory` keeps their order, `space` enforces max_size."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass

from mirror.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A committed blob, as eviction sees it."""

    digest: Digest
    size: int


def choose_victims(
    oldest_first: Iterable[StoredBlob], *, excess: int, held: Container[Digest]
) -> list[StoredBlob] | None:
    """Choose the least recently used blobs that no reader holds, until *excess* bytes are free.

    Returns:
        None if evicting every blob that is not held would free too little: then none should be evicted.
    """
    chosen: list[StoredBlob] = []
    for stored in oldest_first:
        if excess <= 0:
            break
        if stored.digest in held or not stored.size:
            continue
        chosen.append(stored)
        excess -= stored.size
    return chosen if excess <= 0 else None
