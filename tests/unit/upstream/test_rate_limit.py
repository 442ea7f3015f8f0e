"""The rate limit after a 429 lasts as long as Retry-After, up to a minute; Retry-After is parsed in all its forms."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirror.errors import UpstreamThrottled
from mirror.upstream.rate_limit import RateLimit, retry_after
from tests.unit.texts import anything

NOW = datetime(2024, 2, 29, 12, 0, tzinfo=UTC)


class Clock:
    """Clock that a test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(st.none() | st.integers(0, 10**6), st.lists(st.floats(0, 100), max_size=5))
def test_requests_are_rejected_until_retry_after_is_over(announced: int | None, waits: list[float]) -> None:
    """At most a minute, and a second without Retry-After. The error names the remaining time and a missing login."""
    clock = Clock()
    limit = RateLimit("quay.io", clock=clock)
    limit.require_allowed()
    limit.record_429(announced)
    until = clock.now + min(1 if announced is None else announced, 60)
    for wait in waits:
        clock.now += wait
        if clock.now >= until:
            limit.require_allowed()
            continue
        with pytest.raises(UpstreamThrottled) as refusal:
            limit.require_allowed()
        seconds = refusal.value.retry_after
        assert seconds is not None
        assert until - clock.now < seconds <= until - clock.now + 1
        assert str(refusal.value) == f"the rate limit of quay.io is reached: wait {seconds} s"
        with pytest.raises(UpstreamThrottled, match=rf"wait {seconds} s, or set username and password_file$"):
            limit.require_allowed(login_advice="set username and password_file")


@given(st.integers(0, 10**8))
def test_number_in_retry_after_is_seconds(seconds: int) -> None:
    """White space around it is ignored."""
    assert retry_after(str(seconds)) == seconds
    assert retry_after(f" {seconds}\t") == seconds


@given(st.timedeltas(timedelta(0), timedelta(days=400)))
def test_date_in_retry_after_is_relative_to_now(ahead: timedelta) -> None:
    """In HTTP's date format, to the second; a date in the past is 0 s."""
    ahead = timedelta(seconds=ahead // timedelta(seconds=1))
    assert retry_after(format_datetime(NOW + ahead, usegmt=True), now=NOW) == ahead.total_seconds()
    assert retry_after(format_datetime(NOW - ahead, usegmt=True), now=NOW) == 0


dates = st.datetimes(timezones=st.just(UTC)).map(lambda date: format_datetime(date, usegmt=True))


@given(st.none() | anything(st.integers(0, 10**6).map(str), dates))
@example("Fri, 01 Jan 99999999999999999999 00:00:00 GMT")
@example("Fri, 31 Dec 9999 23:59:59 -2359")
@example("Fri, 01 Jan 0001 00:00:00 +2359")
@example("Fri, 01 Jan 2024 00:00:00 +99999999999999")
@example("1" * 10_000)
@example("\N{ARABIC-INDIC DIGIT THREE}")
def test_any_retry_after_is_parsed_without_error(header: str | None) -> None:
    """The result is a non-negative number or None."""
    seconds = retry_after(header, now=NOW)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize("header", [None, "", "soon", "-1", "1.5", "0x1", "1 2", "Fri, 31 Feb 2024 00:00:00 GMT"])
def test_invalid_retry_after_is_ignored(header: str | None) -> None:
    """The result is that of an absent header."""
    assert retry_after(header, now=NOW) is None
