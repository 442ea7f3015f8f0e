"""What was used last is kept, within a total weight."""

from hypothesis import given
from hypothesis import strategies as st

from mirror.primitives.lru import LruCache

Act = tuple[str, int, int]

acts = st.lists(st.tuples(st.sampled_from(["keep", "get", "drop"]), st.integers(0, 8), st.integers(1, 12)))


def done(recent: LruCache[int, int], act: Act) -> None:
    verb, key, value = act
    if verb == "keep":
        recent.set(key, value)
    elif verb == "drop":
        recent.delete(key)
    else:
        recent.get(key)


@given(acts, st.integers(1, 30))
def test_the_weight_of_all_values_stays_within_its_limit(acts: list[Act], most: int) -> None:
    """After each act; and a value is either the one kept last under its key, or gone."""
    recent = LruCache[int, int](most, weigh=lambda value: value)
    kept: dict[int, int] = {}
    for act in acts:
        done(recent, act)
        if act[0] == "keep":
            kept[act[1]] = act[2]
        elif act[0] == "drop":
            kept.pop(act[1], None)
        here = {key: value for key in range(9) if (value := recent.get(key)) is not None}
        assert here.items() <= kept.items()
        assert len(recent) == len(here)
        assert sum(here.values()) <= most


@given(acts, st.integers(0, 8), st.integers(1, 12), st.booleans(), acts)
def test_what_was_used_lately_is_not_forgotten(
    before: list[Act], key: int, value: int, kept_anew: bool, after: list[Act]
) -> None:
    """Not before others of half the limit's weight were used."""
    recent = LruCache[int, int](40, weigh=lambda value: value)
    recent.set(key, value)
    for act in before:
        if act[1] != key or act[0] == "get":
            done(recent, act)
    if kept_anew:
        recent.set(key, value)
    elif recent.get(key) is None:
        return  # forgotten before that use
    others: dict[int, int] = {}
    for verb, other, weight in after:
        others[other] = max(others.get(other, 0), weight if verb == "keep" else 12)
        if other == key or value + sum(others.values()) > 20:
            break
        done(recent, (verb, other, weight))
    assert recent.get(key) == value


@given(st.lists(st.integers(0, 8)), st.integers(1, 6))
def test_the_values_used_last_are_those_that_stay(keys: list[int], most: int) -> None:
    """Keeping counts as a use; each value weighs 1 where nothing else is said."""
    recent = LruCache[int, str](most)
    for key in keys:
        recent.set(key, str(key))
    lately = list(dict.fromkeys(reversed(keys)))[:most]
    assert {key for key in range(9) if recent.get(key) is not None} == set(lately)


def test_a_use_keeps_a_value_from_being_forgotten() -> None:
    """The least recently used one goes, not the one kept first."""
    recent = LruCache[str, int](3)
    for key in "abc":
        recent.set(key, 1)
    assert recent.get("a") == 1
    recent.set("d", 1)
    assert [key for key in "abcd" if recent.get(key)] == ["a", "c", "d"]


def test_what_is_too_heavy_is_not_kept() -> None:
    """It may push others out, but never stands above the limit."""
    recent = LruCache[str, int](10, weigh=lambda value: value)
    recent.set("light", 1)
    recent.set("heavy", 11)
    assert recent.get("heavy") is None
    assert len(recent) <= 1
