"""Decisions: which facts make a tag fresh, a failure bearable, a blob evictable, a byte far away."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import (
    ContentUnknown,
    IntegrityError,
    ManifestUnknown,
    MirrorError,
    StorageFailed,
    UpstreamRefused,
    UpstreamThrottled,
    UpstreamThrottledByPath,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from mirror.oci.digest import Digest
from mirror.pull.downloads import is_far
from mirror.pull.freshness import (
    Fetch,
    Revalidate,
    Serve,
    decide,
    is_gone,
    may_serve_stale,
)
from mirror.server.answers import for_client
from mirror.storage.eviction import StoredBlob, choose_victims
from mirror.storage.facts import TagFact
from mirror.upstream.pull_quota import fresh_for, is_low
from mirror.upstream.selection import most_informative, time_share

DIGEST = Digest.of(b"")
times = st.integers(-(10**9), 10**10).map(float)
durations = st.integers(0, 10**8).map(float)
stored = st.lists(st.integers(0, 50), max_size=12).map(
    lambda sizes: [StoredBlob(Digest.of(bytes([number])), size) for number, size in enumerate(sizes)]
)


@given(times, durations, st.booleans())
def test_what_is_not_known_is_fetched(now: float, fresh_for: float, offline: bool) -> None:
    """Whatever the clock says; being offline is not this decision's business."""
    assert decide(None, now=now, fresh_for=fresh_for, offline=offline) == Fetch()


@given(times, durations, durations)
def test_a_tag_is_fresh_for_as_long_as_it_says(checked: float, age: float, fresh_for: float) -> None:
    """Up to, not including, the end of that time: 0 s means never."""
    fact = TagFact(DIGEST, checked)
    decision = decide(fact, now=checked + age, fresh_for=fresh_for, offline=False)
    assert decision == (Serve(fact) if age < fresh_for else Revalidate(fact))


@given(times, durations.filter(bool), durations)
def test_a_check_in_the_future_is_not_fresh(now: float, ahead: float, fresh_for: float) -> None:
    """The clock was set back: nobody knows how old the check is."""
    fact = TagFact(DIGEST, now + ahead)
    assert decide(fact, now=now, fresh_for=fresh_for, offline=False) == Revalidate(fact)


@given(times, times, durations)
def test_offline_whatever_is_known_is_served(checked: float, now: float, fresh_for: float) -> None:
    """There is nobody to ask."""
    fact = TagFact(DIGEST, checked)
    assert decide(fact, now=now, fresh_for=fresh_for, offline=True) == Serve(fact)


@pytest.mark.parametrize(
    "failure",
    [UpstreamUnavailable, UpstreamTimeout, UpstreamThrottled, UpstreamRefused, IntegrityError],
)
@given(times, durations, durations)
def test_when_upstream_fails_stale_is_better_than_nothing(
    failure: type[MirrorError], checked: float, age: float, stale_for: float
) -> None:
    """For as long as the configuration says."""
    fact = TagFact(DIGEST, checked)
    assert may_serve_stale(fact, failure("…"), now=checked + age, stale_for=stale_for) == (age < stale_for)
    assert not is_gone(failure("…"))


@pytest.mark.parametrize("failure", [ManifestUnknown, ContentUnknown])
@given(times, durations)
def test_what_upstream_says_is_gone_is_gone(failure: type[MirrorError], checked: float, stale_for: float) -> None:
    """Its answer is no failure."""
    assert is_gone(failure("…"))
    assert not may_serve_stale(TagFact(DIGEST, checked), failure("…"), now=checked, stale_for=stale_for)


def test_the_mirrors_own_failures_are_not_upstreams() -> None:
    """A full disk neither proves that a tag is gone nor that it can't be asked for."""
    failure = StorageFailed("…")
    assert not is_gone(failure)
    assert not may_serve_stale(TagFact(DIGEST, 0), failure, now=0, stale_for=60)


def test_who_named_the_upstream_in_the_path_is_told_to_wait() -> None:
    """It has nowhere to fall back to; who asked a mirror falls back at 503."""
    failure = UpstreamThrottled("too many", retry_after=7, upstream="quay.io")
    assert for_client(failure, by_path=False) is failure
    told = for_client(failure, by_path=True)
    assert isinstance(told, UpstreamThrottledByPath)
    assert (str(told), told.retry_after, told.detail) == ("too many", 7, {"upstream": "quay.io"})
    assert (failure.status, told.status) == (503, 429)
    other = UpstreamTimeout("…")
    assert for_client(other, by_path=True) is other


@given(stored, st.integers(-10, 400), st.sets(st.integers(0, 11)))
def test_victims_are_the_oldest_that_nobody_holds(blobs: list[StoredBlob], excess: int, holding: set[int]) -> None:
    """Just as many as are needed, in order; none where all of them would not do."""
    held = {blobs[number].digest for number in holding if number < len(blobs)}
    free = [blob for blob in blobs if blob.digest not in held and blob.size]
    chosen = choose_victims(blobs, excess=excess, held=held)
    if chosen is None:
        assert sum(blob.size for blob in free) < excess
        return
    assert chosen == free[: len(chosen)]
    assert sum(blob.size for blob in chosen) >= excess
    assert not chosen or sum(blob.size for blob in chosen[:-1]) < excess


sizes = st.integers(0, 2**40)
seconds = st.integers(0, 10**5).map(float)


@given(sizes, sizes, seconds, seconds)
def test_a_slower_download_is_no_nearer(ahead: int, came: int, taken: float, patience: float) -> None:
    """More bytes ahead, more seconds for as many, less patience: none makes it nearer."""
    if is_far(ahead, received=came, seconds=taken, patience=patience):
        assert is_far(ahead + 1, received=came, seconds=taken, patience=patience)
        assert is_far(ahead, received=came, seconds=taken + 1, patience=patience)
        assert is_far(ahead, received=came, seconds=taken, patience=patience / 2)


@given(st.integers(2**21, 2**40), st.integers(1, 2**40), st.integers(1, 10**5), st.integers(1, 100))
def test_far_is_what_takes_longer_than_patience(ahead: int, came: int, taken: int, patience: int) -> None:
    """At the pace so far."""
    assert is_far(ahead, received=came, seconds=float(taken), patience=float(patience)) == (
        ahead * taken > patience * came
    )


@given(st.integers(-(2**40), 2**16), sizes, seconds)
def test_what_is_here_or_almost_is_near(ahead: int, came: int, taken: float) -> None:
    """To ask for it anew would take no less."""
    assert not is_far(ahead, received=came, seconds=taken, patience=0.0)


seconds = st.floats(0, 10**6)


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_quota_is_low_below_a_tenth(left: int, limit: int) -> None:
    """Nine of 100 are low; with an unknown limit, only 0 is low."""
    assert is_low(left, limit) == (left < limit / 10)
    assert is_low(left, None) == (left == 0)


@given(seconds, seconds)
def test_low_quota_extends_tag_freshness_and_never_shortens_it(usually: float, when_low: float) -> None:
    """With enough pulls left, the usual freshness applies."""
    assert fresh_for(usually, when_low, low=False) == usually
    assert fresh_for(usually, when_low, low=True) == max(usually, when_low)


RANKS: dict[type[MirrorError], int] = {
    UpstreamThrottled: 0,
    UpstreamTimeout: 1,
    UpstreamUnavailable: 1,
    IntegrityError: 2,
    UpstreamRefused: 3,
    ManifestUnknown: 4,
}


@given(st.lists(st.sampled_from(list(RANKS)), min_size=1))
def test_the_failure_that_tells_most_is_one_that_may_end(kinds: list[type[MirrorError]]) -> None:
    """Gone is what all say is gone; of equals the first endpoint's is told."""
    failures = [kind("failed") for kind in kinds]
    told = most_informative(failures)
    assert told in failures
    assert is_gone(told) == all(is_gone(failure) for failure in failures)
    assert RANKS[type(told)] == min(RANKS[type(failure)] for failure in failures)
    assert told is next(failure for failure in failures if RANKS[type(failure)] == RANKS[type(told)])


@given(st.floats(0.1, 100), st.lists(st.booleans(), min_size=1, max_size=5))
def test_silent_endpoints_share_the_time_of_a_question(seconds: float, probes: list[bool]) -> None:
    """If none says anything, all had their turn when it is over; one that was down had a quarter of it at most."""
    left = seconds
    for at, is_probe in enumerate(probes):
        waiting = len(probes) - at - 1
        share = time_share(left, total=seconds, waiting=waiting, is_probe=is_probe)
        assert 0 < share <= (seconds / 4 if is_probe else seconds)
        assert share <= left / (waiting + 1)
        left -= share
        assert left >= -1e-9
    assert any(probes) or left == pytest.approx(0, abs=1e-9)
