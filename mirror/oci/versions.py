"""Versions: tags that are numbers with points, in the order of Semantic Versioning 2.0.0 (11)."""

from __future__ import annotations

import re
from collections.abc import Iterable

_VERSION = re.compile(r"v?(0|[1-9]\d{0,17})(?:\.(\d{1,18}))?(?:\.(\d{1,18}))?(?:\.(\d{1,18}))?(?:-([0-9A-Za-z.-]+))?")

_Order = tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...], int, str]


def is_stable(tag: str) -> bool:
    """Whether *tag* is a version, and none before another's release (`1.2.0-rc.1`, but also `1.2.0-alpine`)."""
    found = _VERSION.fullmatch(tag)
    return found is not None and found[5] is None


def newest(tags: Iterable[str], count: int) -> list[str]:
    """The *count* highest versions among *tags*, highest first; what is no version is passed over.

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
    """A part of a pre-release: numbers by their value, and below all words (11.4)."""
    is_number = text.isdecimal() and len(text) < 19
    return (not is_number, int(text) if is_number else 0, "" if is_number else text)
