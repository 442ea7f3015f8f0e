"""LRU cache: the most recently used values stay, within a total weight."""

from hypothesis import given
from hypothesis import strategies as st

from mirror.primitives.lru import LruCache

Operation = tuple[str, int, int]

acts = st.lists(st.tuples(st.sampled_from(["set", "get", "delete"]), st.integers(0, 8), st.integers(1, 12)))


def apply(cache: LruCache[int, int], operation: Operation) -> None:
    verb, key, value = operation
    if verb == "set":
        cache.set(key, value)
    elif verb == "delete":
        cache.delete(key)
    else:
        cache.get(key)


@given(acts, st.integers(1, 30))
def test_total_weight_stays_within_its_limit(acts: list[Operation], most: int) -> None:
    """After each operation; a key holds either the value set last or none."""
    cache = LruCache[int, int](most, weigh=lambda value: value)
    kept: dict[int, int] = {}
    for act in acts:
        apply(cache, act)
        if act[0] == "set":
            kept[act[1]] = act[2]
        elif act[0] == "delete":
            kept.pop(act[1], None)
        here = {key: value for key in range(9) if (value := cache.get(key)) is not None}
        assert here.items() <= kept.items()
        assert len(cache) == len(here)
        assert sum(here.values()) <= most


@given(acts, st.integers(0, 8), st.integers(1, 12), st.booleans(), acts)
def test_recently_used_value_is_not_evicted(
    before: list[Operation], key: int, value: int, set_again: bool, after: list[Operation]
) -> None:
    """A value stays at least until other values of half the limit's weight were used."""
    cache = LruCache[int, int](40, weigh=lambda value: value)
    cache.set(key, value)
    for act in before:
        if act[1] != key or act[0] == "get":
            apply(cache, act)
    if set_again:
        cache.set(key, value)
    elif cache.get(key) is None:
        return  # evicted before that use
    others: dict[int, int] = {}
    for verb, other, weight in after:
        others[other] = max(others.get(other, 0), weight if verb == "set" else 12)
        if other == key or value + sum(others.values()) > 20:
            break
        apply(cache, (verb, other, weight))
    assert cache.get(key) == value


@given(st.lists(st.integers(0, 8)), st.integers(1, 6))
def test_most_recently_used_values_stay(keys: list[int], most: int) -> None:
    """Setting a value counts as a use. The default weight of a value is 1."""
    cache = LruCache[int, str](most)
    for key in keys:
        cache.set(key, str(key))
    lately = list(dict.fromkeys(reversed(keys)))[:most]
    assert {key for key in range(9) if cache.get(key) is not None} == set(lately)


def test_reading_a_value_protects_it_from_eviction() -> None:
    """The least recently used value is evicted, not the value set first."""
    cache = LruCache[str, int](3)
    for key in "abc":
        cache.set(key, 1)
    assert cache.get("a") == 1
    cache.set("d", 1)
    assert [key for key in "abcd" if cache.get(key)] == ["a", "c", "d"]


def test_value_above_the_limit_is_not_stored() -> None:
    """It evicts no other value; the earlier value of its key is gone, as it is out of date."""
    cache = LruCache[str, int](10, weigh=lambda value: value)
    cache.set("one", 1)
    cache.set("other", 9)
    cache.set("heavy", 11)
    assert (cache.get("one"), cache.get("other"), cache.get("heavy")) == (1, 9, None)
    cache.set("one", 11)
    assert (cache.get("one"), cache.get("other")) == (None, 9)
    assert cache.weight == 9


@given(acts, st.integers(1, 30))
def test_cache_holds_what_the_model_holds(acts: list[Operation], most: int) -> None:
    """The model is a list, the least recently used value first."""
    cache = LruCache[int, int](most, weigh=lambda value: value)
    model: list[tuple[int, int]] = []
    for act in acts:
        apply(cache, act)
        verb, key, value = act
        present = [one for one in model if one[0] == key]
        model = [one for one in model if one[0] != key]
        if verb == "get":
            model += present
        elif verb == "set" and value <= most:
            model.append((key, value))
            while sum(weight for _, weight in model) > most:
                model.pop(0)
        assert list(cache.values()) == [value for _, value in model]
        assert cache.weight == sum(weight for _, weight in model)
    assert {key: cache.get(key) for key, _ in model} == dict(model)
