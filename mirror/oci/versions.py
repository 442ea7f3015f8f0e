"""Version order of tags (Semantic Versioning 2.0.0, section 11)."""

from __future__ import annotations

import re
from collections.abc import Iterable

_VERSION = re.compile(r"v?(0|[1-9]\d{0,17})(?:\.(\d{1,18}))?(?:\.(\d{1,18}))?(?:\.(\d{1,18}))?(?:-([0-9A-Za-z.-]+))?")

_Order = tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...], int, str]


def is_stable(tag: str) -> bool:
    """Return whether *tag* is a version without a pre-release part (`1.2.0-rc.1` has one, as has `1.2.0-alpine`)."""
    found = _VERSION.fullmatch(tag)
    return found is not None and found[5] is None


def newest(tags: Iterable[str], count: int) -> list[str]:
    """Return the *count* highest versions among *tags*, highest first. Tags that are not versions are ignored.

    Of several spellings of one version (1.2, v1.2.0) the most exact comes first.
    """
    versions = sorted(((order, tag) for tag in set(tags) if (order := _order(tag)) is not None), reverse=True)
    return [tag for _, tag in versions[:count]]


def _order(tag: str) -> _Order | None:
    found = _VERSION.fullmatch(tag)
    if found is None:
        return None
    numbers = [int(number) for number in found.groups()[:4] if number is not None]
    padded = tuple(numbers + [0] * (4 - len(numbers)))
    prerelease = () if found[5] is None else tuple(map(_identifier, found[5].split(".")))
    return padded, found[5] is None, prerelease, len(numbers), tag


def _identifier(text: str) -> tuple[bool, int, str]:
    """Return the sort key of a pre-release identifier: numbers by value, and below all words (11.4)."""
    is_number = text.isdecimal() and len(text) < 19
    return (not is_number, int(text) if is_number else 0, "" if is_number else text)
