"""Pull quota: when few pulls are left, and how long tags stay fresh because of it."""

from hypothesis import given
from hypothesis import strategies as st

from mirror.upstream.pull_quota import fresh_for, is_low

seconds = st.floats(0, 10**6)


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_quota_is_low_below_a_tenth(left: int, limit: int) -> None:
    """Nine of 100 are low; with an unknown limit, only 0 is low."""
    assert is_low(left, limit) == (left < limit / 10)
    assert is_low(left, None) == (left == 0)


@given(seconds, seconds)
def test_low_quota_extends_tag_freshness_and_never_shortens_it(usually: float, when_low: float) -> None:
    """The usual freshness applies while enough pulls are left."""
    assert fresh_for(usually, when_low, low=False) == usually
    assert fresh_for(usually, when_low, low=True) == max(usually, when_low)
