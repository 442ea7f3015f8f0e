"""Tag freshness: serve, revalidate or fetch, and when a stale answer may be served."""

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
    UpstreamTimeout,
    UpstreamUnavailable,
)
from mirror.oci.digest import Digest
from mirror.pull.freshness import Fetch, Revalidate, Serve, decide, is_gone, may_serve_stale
from mirror.storage.facts import TagFact

DIGEST = Digest.of(b"")
times = st.integers(-(10**9), 10**10).map(float)
durations = st.integers(0, 10**8).map(float)


@given(times, durations, st.booleans())
def test_unknown_tag_is_fetched(now: float, fresh_for: float, offline: bool) -> None:
    """At any time; whether the mirror may ask the upstream is decided elsewhere."""
    assert decide(None, now=now, fresh_for=fresh_for, offline=offline) == Fetch()


@given(times, durations, durations)
def test_tag_is_fresh_until_fresh_for_ends(checked: float, age: float, fresh_for: float) -> None:
    """The end is excluded: with 0 s a tag is never fresh."""
    fact = TagFact(DIGEST, checked)
    decision = decide(fact, now=checked + age, fresh_for=fresh_for, offline=False)
    assert decision == (Serve(fact) if age < fresh_for else Revalidate(fact))


@given(times, durations.filter(bool), durations)
def test_check_in_the_future_is_not_fresh(now: float, ahead: float, fresh_for: float) -> None:
    """The clock was set back, so the age of the check is unknown."""
    fact = TagFact(DIGEST, now + ahead)
    assert decide(fact, now=now, fresh_for=fresh_for, offline=False) == Revalidate(fact)


@given(times, times, durations)
def test_offline_every_known_tag_is_fresh(checked: float, now: float, fresh_for: float) -> None:
    """No upstream is asked."""
    fact = TagFact(DIGEST, checked)
    assert decide(fact, now=now, fresh_for=fresh_for, offline=True) == Serve(fact)


@pytest.mark.parametrize(
    "failure",
    [UpstreamUnavailable, UpstreamTimeout, UpstreamThrottled, UpstreamRefused, IntegrityError],
)
@given(times, durations, durations)
def test_stale_tag_is_served_while_the_upstream_fails(
    failure: type[MirrorError], checked: float, age: float, stale_for: float
) -> None:
    """It is served for `tags.stale_for` seconds."""
    fact = TagFact(DIGEST, checked)
    assert may_serve_stale(fact, failure("…"), now=checked + age, stale_for=stale_for) == (age < stale_for)
    assert not is_gone(failure("…"))


@pytest.mark.parametrize("failure", [ManifestUnknown, ContentUnknown])
@given(times, durations)
def test_404_of_the_upstream_is_final(failure: type[MirrorError], checked: float, stale_for: float) -> None:
    """A 404 is an answer, not a failure."""
    assert is_gone(failure("…"))
    assert not may_serve_stale(TagFact(DIGEST, checked), failure("…"), now=checked, stale_for=stale_for)


def test_local_failure_is_not_the_upstreams() -> None:
    """A full disk proves neither that a tag is gone nor that the upstream is unavailable."""
    failure = StorageFailed("…")
    assert not is_gone(failure)
    assert not may_serve_stale(TagFact(DIGEST, 0), failure, now=0, stale_for=60)
