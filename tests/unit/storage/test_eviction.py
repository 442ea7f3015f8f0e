"""LRU eviction: which blobs make space."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from mirror.storage.eviction import NameAndSize, choose_victims

stored = st.lists(st.integers(0, 50), max_size=12).map(
    lambda sizes: [(f"{at:x}", size) for at, size in enumerate(sizes)]
)


@given(stored, st.integers(-10, 400), st.sets(st.integers(0, 11)))
def test_victims_are_the_oldest_blobs_without_a_hold(blobs: list[NameAndSize], excess: int, holding: set[int]) -> None:
    """As many as are needed, in order; None if all of them would free too little."""
    held = {f"{number:x}" for number in holding}  # some are not stored
    free = [(name, size) for name, size in blobs if name not in held and size]
    evictable = sum(size for _, size in free)
    chosen = choose_victims(blobs, excess=excess, evictable=evictable, held=held)
    if chosen is None:
        assert evictable < excess
        return
    assert chosen == free[: len(chosen)]
    assert sum(size for _, size in chosen) >= excess
    assert not chosen or sum(size for _, size in chosen[:-1]) < excess


def test_no_more_blobs_are_inspected_than_needed() -> None:
    """An impossible request inspects no blob: a store may have a million, and the event loop waits."""
    inspected: list[str] = []

    def blobs() -> Iterator[NameAndSize]:
        for number in range(100):
            inspected.append(f"{number}")
            yield f"{number}", 10

    assert choose_victims(blobs(), excess=991, evictable=990, held={"0"}) is None
    assert inspected == []
    assert choose_victims(blobs(), excess=20, evictable=990, held={"0"}) == [("1", 10), ("2", 10)]
    assert len(inspected) <= 4
