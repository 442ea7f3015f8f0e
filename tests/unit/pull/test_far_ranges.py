"""Ranges far ahead of a download: when waiting takes longer than a client does."""

from hypothesis import given
from hypothesis import strategies as st

from mirror.pull.downloads import is_far

sizes = st.integers(0, 2**40)
seconds = st.integers(0, 10**5).map(float)


@given(sizes, sizes, seconds, seconds)
def test_slower_download_is_no_nearer(ahead: int, came: int, taken: float, patience: float) -> None:
    """More bytes ahead, a lower rate or less patience never make a range near."""
    if is_far(ahead, received=came, seconds=taken, patience=patience):
        assert is_far(ahead + 1, received=came, seconds=taken, patience=patience)
        assert is_far(ahead, received=came, seconds=taken + 1, patience=patience)
        assert is_far(ahead, received=came, seconds=taken, patience=patience / 2)


@given(st.integers(2**21, 2**40), st.integers(1, 2**40), st.integers(1, 10**5), st.integers(1, 100))
def test_range_is_far_if_it_takes_longer_than_patience(ahead: int, came: int, taken: int, patience: int) -> None:
    """The average rate so far decides."""
    assert is_far(ahead, received=came, seconds=float(taken), patience=float(patience)) == (
        ahead * taken > patience * came
    )


@given(st.integers(-(2**40), 2**16), sizes, seconds)
def test_range_within_a_mebibyte_is_near(ahead: int, came: int, taken: float) -> None:
    """A separate request would take no less time."""
    assert not is_far(ahead, received=came, seconds=taken, patience=0.0)
