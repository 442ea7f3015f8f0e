"""Hints: bounded in bytes, gone after their TTL."""

import asyncio

from mirror.primitives.hints import Hints
from mirror.primitives.lru import LruCache


async def test_hint_is_returned_until_its_ttl_ends() -> None:
    """The TTL is given with each hint."""
    hints = Hints[str](2**16, weigh=len)
    await hints.set("long", "value", ttl=60)
    await hints.set("short", "value", ttl=0.01)
    await asyncio.sleep(0.02)
    assert await hints.get("long") == "value"
    assert await hints.get("short") is None


async def test_hint_without_ttl_is_not_stored() -> None:
    """A TTL of 0 switches a kind of hint off."""
    hints = Hints[str](2**16, weigh=len)
    await hints.set("key", "value", ttl=0)
    assert await hints.get("key") is None


async def test_deleted_hint_is_absent() -> None:
    """Deleting an absent hint is no error."""
    hints = Hints[str](2**16, weigh=len)
    await hints.set("key", "value", ttl=60)
    await hints.delete("key")
    await hints.delete("key")
    assert await hints.get("key") is None


async def test_hints_stay_within_their_bytes() -> None:
    """20,000 names evict the oldest, and leave no timer behind."""
    hints = Hints[str](2**20, weigh=len)
    for number in range(20_000):
        await hints.set(str(number), "x" * 100, ttl=60)
    here = sum([await hints.get(str(number)) is not None for number in range(20_000)])
    assert 0 < here <= 2**20 // 512
    assert await hints.get("19999") is not None


def test_expired_value_is_absent_and_weighs_nothing() -> None:
    """Reading an expired value removes it."""
    now = [0.0]
    cache = LruCache[str, int](10, ttl=5.0, clock=lambda: now[0])
    cache.set("default", 1)
    cache.set("longer", 1, ttl=9.0)
    now[0] = 5.0
    assert [cache.get("default"), cache.get("longer")] == [None, 1]
    now[0] = 9.0
    assert "longer" not in cache
    assert (len(cache), cache.weight) == (0, 0)
