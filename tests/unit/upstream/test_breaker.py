"""The circuit breaker: open after repeated failures, closed again by one successful probe; pauses double."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import UpstreamUnavailable
from mirror.upstream.breaker import CircuitBreaker
from tests.unit.upstream.test_rate_limit import Clock


def admits(breaker: CircuitBreaker) -> bool:
    try:
        breaker.require_closed()
    except UpstreamUnavailable as refusal:
        retry_after = refusal.retry_after
    else:
        return True
    assert retry_after is not None
    assert retry_after >= 1
    return False


def broken() -> tuple[CircuitBreaker, Clock]:
    clock = Clock()
    breaker = CircuitBreaker("quay.io", clock=clock)
    for _ in range(2):
        breaker.require_closed()
        breaker.failed()
    return breaker, clock


@given(st.lists(st.booleans()))
def test_two_consecutive_failures_open_the_circuit(results: list[bool]) -> None:
    """A single failure does not; a success in between resets the count."""
    breaker = CircuitBreaker("quay.io", clock=Clock())
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


def test_open_circuit_rejects_requests_at_once() -> None:
    """The message contains the number of failures and the time until the next attempt."""
    breaker, clock = broken()
    with pytest.raises(UpstreamUnavailable, match=r"quay\.io failed 2 times in a row; the next attempt is in 1\.0 s"):
        breaker.require_closed()
    clock.now += 0.999
    assert not admits(breaker)


def test_one_probe_is_sent_after_the_pause() -> None:
    """Other requests are rejected until the probe's result; its success closes the circuit."""
    breaker, clock = broken()
    clock.now += 1
    assert admits(breaker)
    assert not admits(breaker)
    breaker.succeeded()
    assert all(admits(breaker) for _ in range(3))


def test_lost_probe_is_replaced_after_the_pause() -> None:
    """The client that caused the probe may have disconnected."""
    breaker, clock = broken()
    clock.now += 1
    assert admits(breaker)
    clock.now += 1
    assert admits(breaker)
    assert not admits(breaker)


def test_pause_doubles_after_each_failed_probe() -> None:
    """Up to 30 s; a success resets it to the first pause."""
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


def test_concurrent_failures_do_not_extend_the_first_pause() -> None:
    """Fifty requests in flight when the upstream goes down count as one outage."""
    clock = Clock()
    breaker = CircuitBreaker("quay.io", clock=clock)
    assert all(admits(breaker) for _ in range(50))
    for _ in range(50):
        breaker.failed()
    clock.now += 1
    assert admits(breaker)


@given(st.integers(1, 10**6), st.booleans())
def test_retry_after_sets_the_pause(pause: int, probed: bool) -> None:
    """One 503 with Retry-After opens the circuit, also in response to a probe; the pause is at most a minute."""
    clock = Clock()
    breaker = CircuitBreaker("quay.io", clock=clock)
    if probed:
        breaker, clock = broken()
        clock.now += 1
        assert admits(breaker)
    breaker.failed(pause=pause)
    assert breaker.is_open
    clock.now += min(pause, 60) - 0.001
    breaker.failed()  # a request that was in flight
    assert not admits(breaker)
    clock.now += 0.001
    assert admits(breaker)
    breaker.succeeded()
    assert admits(breaker)


@given(st.booleans(), st.integers(0, 40))
def test_admits_agrees_with_require_closed_without_side_effects(is_broken: bool, seconds: int) -> None:
    """Reading it does not start a probe."""
    breaker, clock = broken() if is_broken else (CircuitBreaker("quay.io", clock=Clock()), Clock())
    clock.now += seconds
    assert breaker.admits == breaker.admits == admits(breaker)


@given(st.lists(st.sampled_from(["failed", "succeeded", "require_closed", "second", "minute"])))
def test_recovered_upstream_is_probed_within_30_seconds(events: list[str]) -> None:
    """This holds after any sequence of events."""
    clock = Clock()
    breaker = CircuitBreaker("quay.io", clock=clock)
    for event in events:
        if event == "require_closed":
            admits(breaker)
        elif event in {"second", "minute"}:
            clock.now += 1 if event == "second" else 60
        else:
            getattr(breaker, event)()
    clock.now += 30
    assert admits(breaker)
    breaker.succeeded()
    assert admits(breaker)
