"""The throttle keeps still as long as upstream says, but never for long; Retry-After is read in all its forms."""

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
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(st.none() | st.integers(0, 10**6), st.lists(st.floats(0, 100), max_size=5))
def test_requests_pass_when_the_time_is_over(told: int | None, waits: list[float]) -> None:
    """Upstream's own time, within a minute; a moment where it says none. The refusal says how long is left."""
    clock = Clock()
    throttle = RateLimit("quay.io", clock=clock)
    throttle.admit()
    throttle.told(told)
    until = clock.now + min(1 if told is None else told, 60)
    for wait in waits:
        clock.now += wait
        if clock.now >= until:
            throttle.admit()
            continue
        with pytest.raises(UpstreamThrottled, match=r"quay\.io.*username and password_file") as refusal:
            throttle.admit()
        assert refusal.value.retry_after is not None
        assert until - clock.now < refusal.value.retry_after <= until - clock.now + 1


@given(st.integers(0, 10**8))
def test_a_number_is_seconds(seconds: int) -> None:
    """With or without white space around it."""
    assert retry_after(str(seconds)) == seconds
    assert retry_after(f" {seconds}\t") == seconds


@given(st.timedeltas(timedelta(0), timedelta(days=400)))
def test_a_date_is_a_time_from_now(ahead: timedelta) -> None:
    """In HTTP's one form, to the second; one in the past means now."""
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
def test_any_header_is_read(header: str | None) -> None:
    """Seconds from now on, or nothing."""
    seconds = retry_after(header, now=NOW)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize("header", [None, "", "soon", "-1", "1.5", "0x1", "1 2", "Fri, 31 Feb 2024 00:00:00 GMT"])
def test_what_names_no_time(header: str | None) -> None:
    """Is as good as no header."""
    assert retry_after(header, now=NOW) is None
