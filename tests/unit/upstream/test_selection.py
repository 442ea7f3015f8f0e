"""Endpoint selection: the failure to report, and the time for each endpoint."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import (
    IntegrityError,
    ManifestUnknown,
    MirrorError,
    UpstreamRefused,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from mirror.pull.freshness import is_gone
from mirror.upstream.selection import most_informative, time_share

RANKS: dict[type[MirrorError], int] = {
    UpstreamThrottled: 0,
    UpstreamTimeout: 1,
    UpstreamUnavailable: 1,
    IntegrityError: 2,
    UpstreamRefused: 3,
    ManifestUnknown: 4,
}


@given(st.lists(st.sampled_from(list(RANKS)), min_size=1))
def test_temporary_failure_is_reported_before_a_permanent_one(kinds: list[type[MirrorError]]) -> None:
    """The result is a 404 only if all are; among equals it is the first endpoint's."""
    failures = [kind("failed") for kind in kinds]
    reported = most_informative(failures)
    assert reported in failures
    assert is_gone(reported) == all(is_gone(failure) for failure in failures)
    assert RANKS[type(reported)] == min(RANKS[type(failure)] for failure in failures)
    assert reported is next(failure for failure in failures if RANKS[type(failure)] == RANKS[type(reported)])


@given(st.floats(0.1, 100), st.lists(st.booleans(), min_size=1, max_size=5))
def test_silent_endpoints_share_the_time(seconds: float, probes: list[bool]) -> None:
    """Every endpoint gets its share before the time is over; one that was down gets at most a quarter."""
    left = seconds
    for at, is_probe in enumerate(probes):
        waiting = len(probes) - at - 1
        share = time_share(left, total=seconds, waiting=waiting, is_probe=is_probe)
        assert 0 < share <= (seconds / 4 if is_probe else seconds)
        assert share <= left / (waiting + 1)
        left -= share
        assert left >= -1e-9
    assert any(probes) or left == pytest.approx(0, abs=1e-9)
