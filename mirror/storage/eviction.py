"""LRU eviction: chooses the blobs to remove. Pure. `lru_inventory` keeps their order, `space` enforces max_size."""

from __future__ import annotations

from collections.abc import Container, Iterable

NameAndSize = tuple[str, int]
"""The hex digits of a blob's digest, and its size: no object, since a choice may pass over a hundred thousand."""


def choose_victims(
    oldest_first: Iterable[NameAndSize], *, excess: int, evictable: int, held: Container[str]
) -> list[NameAndSize] | None:
    """Choose the least recently used blobs that no reader holds, until *excess* bytes are free.

    Args:
        evictable: the bytes of all blobs that are not held.
        held: the names of the held ones.

    Returns:
        None if evicting every blob that is not held would free too little: then none should be evicted. This is known
        without a look at any blob.
    """
    if excess > evictable:
        return None
    chosen: list[NameAndSize] = []
    for name_and_size in oldest_first:
        if excess <= 0:
            break
        name, size = name_and_size
        if size and name not in held:
            chosen.append(name_and_size)
            excess -= size
    return chosen if excess <= 0 else None
