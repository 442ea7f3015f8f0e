"""Assertions about errors of parsers."""

from collections.abc import Callable
from typing import TypeVar

from mirror.errors import MirrorError

_Value = TypeVar("_Value")


def parsed(parse: Callable[[], _Value], *refusals: type[MirrorError]) -> _Value | None:
    """Return the result of *parse*; None after an error of *refusals*, which needs a 4xx status and a short message."""
    failure: MirrorError
    try:
        return parse()
    except MirrorError as refusal:
        failure = refusal
    assert isinstance(failure, refusals)
    assert 400 <= failure.status < 500
    assert len(str(failure)) < 1000
    assert all(len(fact) < 200 for fact in failure.detail.values() if isinstance(fact, str))
    return None
