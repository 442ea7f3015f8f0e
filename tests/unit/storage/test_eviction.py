"""LRU eviction: which blobs make space."""

from hypothesis import given
from hypothesis import strategies as st

from mirror.oci.digest import Digest
from mirror.storage.eviction import StoredBlob, choose_victims

stored = st.lists(st.integers(0, 50), max_size=12).map(
    lambda sizes: [StoredBlob(Digest.of(bytes([number])), size) for number, size in enumerate(sizes)]
)


@given(stored, st.integers(-10, 400), st.sets(st.integers(0, 11)))
def test_victims_are_the_oldest_blobs_without_a_hold(blobs: list[StoredBlob], excess: int, holding: set[int]) -> None:
    """As many as are needed, in order; None if all of them would free too little."""
    held = {blobs[number].digest for number in holding if number < len(blobs)}
    free = [blob for blob in blobs if blob.digest not in held and blob.size]
    chosen = choose_victims(blobs, excess=excess, held=held)
    if chosen is None:
        assert sum(blob.size for blob in free) < excess
        return
    assert chosen == free[: len(chosen)]
    assert sum(blob.size for blob in chosen) >= excess
    assert not chosen or sum(blob.size for blob in chosen[:-1]) < excess
