"""The breaker: closed to an upstream that fails, opened by one probe after ever longer pauses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import UpstreamUnavailable
from mirror.upstream.breaker import Breaker
from tests.unit.test_throttle import Clock


def admits(breaker: Breaker) -> bool:
    try:
        breaker.admit()
    except UpstreamUnavailable as refusal:
        told = refusal.retry_after
    else:
        return True
    assert told is not None
    assert told >= 1
    return False


def broken() -> tuple[Breaker, Clock]:
    clock = Clock()
    breaker = Breaker("quay.io", clock=clock)
    for _ in range(2):
        breaker.admit()
        breaker.failed()
    return breaker, clock


@given(st.lists(st.booleans()))
def test_two_failures_in_a_row_open_it(results: list[bool]) -> None:
    """One is a blip, and a success in between makes it one."""
    breaker = Breaker("quay.io", clock=Clock())
    for at, succeeded in enumerate(results):
        assert admits(breaker)
        if succeeded:
            breaker.succeeded()
        else:
            breaker.failed()
        if at and not any(results[at - 1 : at + 1]):
            assert breaker.is_open
            assert not admits(breaker)
            return
        assert not breaker.is_open


def test_while_it_is_open_nobody_waits() -> None:
    """The refusal says how often upstream failed, and when it is tried again."""
    breaker, clock = broken()
    with pytest.raises(UpstreamUnavailable, match=r"quay\.io failed 2 times in a row; it is tried again in 1\.0 s"):
        breaker.admit()
    clock.now += 0.999
    assert not admits(breaker)


def test_after_the_pause_one_probes_for_all() -> None:
    """The others are refused until it knows more; its success lets everybody pass, at once."""
    breaker, clock = broken()
    clock.now += 1
    assert admits(breaker)
    assert not admits(breaker)
    breaker.succeeded()
    assert all(admits(breaker) for _ in range(3))


def test_a_probe_that_never_comes_back_locks_nobody_out() -> None:
    """The client that sent it may have left: after the pause there is another one."""
    breaker, clock = broken()
    clock.now += 1
    assert admits(breaker)
    clock.now += 1
    assert admits(breaker)
    assert not admits(breaker)


def test_each_pause_is_twice_the_one_before() -> None:
    """Up to half a minute; a success begins anew with the first."""
    breaker, clock = broken()
    for pause in (1, 2, 4, 8, 16, 30, 30):
        clock.now += pause - 0.001
        assert not admits(breaker)
        clock.now += 0.001
        assert admits(breaker)
        breaker.failed()
    clock.now += 30
    assert admits(breaker)
    breaker.succeeded()
    breaker.failed()
    breaker.failed()
    clock.now += 1
    assert admits(breaker)


def test_requests_that_fail_together_are_one_failure_of_upstream() -> None:
    """Fifty were under way when it went down: that makes the first pause no longer."""
    clock = Clock()
    breaker = Breaker("quay.io", clock=clock)
    assert all(admits(breaker) for _ in range(50))
    for _ in range(50):
        breaker.failed()
    clock.now += 1
    assert admits(breaker)


@given(st.integers(1, 10**6), st.booleans())
def test_an_upstream_that_says_when_is_asked_then(pause: int, probed: bool) -> None:
    """One 503 with Retry-After is enough, and again when it is what a probe gets; longer than a minute nobody waits."""
    clock = Clock()
    breaker = Breaker("quay.io", clock=clock)
    if probed:
        breaker, clock = broken()
        clock.now += 1
        assert admits(breaker)
    breaker.failed(pause=pause)
    assert breaker.is_open
    clock.now += min(pause, 60) - 0.001
    breaker.failed()  # one that was under way
    assert not admits(breaker)
    clock.now += 0.001
    assert admits(breaker)
    breaker.succeeded()
    assert admits(breaker)


@given(st.booleans(), st.integers(0, 40))
def test_whether_it_would_admit_can_be_asked_without_being_the_probe(is_broken: bool, seconds: int) -> None:
    """To look at a breaker changes nothing."""
    breaker, clock = broken() if is_broken else (Breaker("quay.io", clock=Clock()), Clock())
    clock.now += seconds
    assert breaker.admits == breaker.admits == admits(breaker)


@given(st.lists(st.sampled_from(["failed", "succeeded", "admit", "second", "minute"])))
def test_an_upstream_that_is_back_is_asked_within_half_a_minute(events: list[str]) -> None:
    """Whatever happened before."""
    clock = Clock()
    breaker = Breaker("quay.io", clock=clock)
    for event in events:
        if event == "admit":
            admits(breaker)
        elif event in {"second", "minute"}:
            clock.now += 1 if event == "second" else 60
        else:
            getattr(breaker, event)()
    clock.now += 30
    assert admits(breaker)
    breaker.succeeded()
    assert admits(breaker)
