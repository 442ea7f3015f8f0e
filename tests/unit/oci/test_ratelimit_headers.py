"""Pull quota headers: the forms that registries send, and arbitrary headers."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirror.oci.ratelimit_headers import RateLimitHeader
from tests.unit.texts import anything

numbers = st.integers(0, 10**9 - 1)
windows = st.none() | numbers


def written(pulls: int, window: int | None) -> str:
    return str(pulls) if window is None else f"{pulls};w={window}"


@given(numbers, windows)
def test_limit_parses_as_docker_hub_writes_it(pulls: int, window: int | None) -> None:
    """`76;w=21600` means 76 pulls in six hours; the window may be missing."""
    assert RateLimitHeader.parse(written(pulls, window)) == RateLimitHeader(pulls, window)


@given(st.lists(st.tuples(numbers, windows), min_size=1, max_size=4), st.sampled_from([",", ", ", " ,\t"]))
def test_first_of_several_limits_counts(limits: list[tuple[int, int | None]], comma: str) -> None:
    """It is the next to be reached."""
    assert RateLimitHeader.parse(comma.join(written(*limit) for limit in limits)) == RateLimitHeader(*limits[0])


@pytest.mark.parametrize("header", ["100; w=21600", " 100 ;W=21600 ", '100;comment="x";w=21600', "100;w=21600;burst=5"])
def test_spaces_and_unknown_parameters_are_ignored(header: str) -> None:
    """Parameters come in any order, with spaces around them."""
    assert RateLimitHeader.parse(header) == RateLimitHeader(100, 21600)


@pytest.mark.parametrize(
    "header", [None, "", "none", "-1", "1.5;w=1", ";w=60", "1 2", "1234567890", "\N{ARABIC-INDIC DIGIT THREE}"]
)
def test_invalid_limit_parses_to_none(header: str | None) -> None:
    """It counts as a missing header."""
    assert RateLimitHeader.parse(header) is None


@given(anything(st.builds(written, numbers, windows)))
@example("1" + ";" * 10_000)
@example("1;" + " " * 10_000 + "x")
@example("1" + ";w" * 10_000)
def test_any_header_parses_in_linear_time(header: str) -> None:
    """The result is a limit or None, without an error."""
    quota = RateLimitHeader.parse(header)
    assert quota is None or (0 <= quota.pulls < 10**9 and (quota.window is None or 0 <= quota.window < 10**9))
