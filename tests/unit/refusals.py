"""How a parser refuses."""

from collections.abc import Callable
from typing import TypeVar

from mirror.errors import MirrorError

_Value = TypeVar("_Value")


def parsed(parse: Callable[[], _Value], *refusals: type[MirrorError]) -> _Value | None:
    """What *parse* makes of its text; None where it refuses: as one of *refusals*, the asker's fault, in few words."""
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
