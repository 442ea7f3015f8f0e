"""Decisions, as plain functions of facts: no I/O, and the time is an argument (seconds since the epoch)."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from mirror.errors import (
    ContentUnknown,
    MirrorError,
    PathThrottled,
    UpstreamCorrupt,
    UpstreamError,
    UpstreamRefused,
    UpstreamThrottled,
    UpstreamUnavailable,
)
from mirror.oci.digest import Digest

_NEAR = 2**20  # bytes; asking for them anew would take no less time
_PROBING = 0.25  # of the time for a question
_UNKNOWN_PACE = 64 * 2**20  # bytes; few uplinks bring so many in the time a client waits


@dataclass(frozen=True, slots=True)
class TagFact:
    """What upstream last said of a tag: the manifest it names, and when that was (seconds since the epoch)."""

    digest: Digest
    checked: float


@dataclass(frozen=True, slots=True)
class Serve:
    """The tag is fresh: answer from the store."""

    fact: TagFact


@dataclass(frozen=True, slots=True)
class Revalidate:
    """The tag is known, but upstream is to confirm it first."""

    fact: TagFact


@dataclass(frozen=True, slots=True)
class Fetch:
    """Nothing is known of the tag."""


Decision = Serve | Revalidate | Fetch


def is_fresh(fact: TagFact, *, now: float, fresh_for: float, offline: bool) -> bool:
    """Whether a tag holds as it was last seen. Offline it always does.

    A check in the future (the clock was set back) proves nothing.
    """
    return offline or 0 <= now - fact.checked < fresh_for


def decide(fact: TagFact | None, *, now: float, fresh_for: float, offline: bool) -> Decision:
    """What a request for a tag needs."""
    if fact is None:
        return Fetch()
    return Serve(fact) if is_fresh(fact, now=now, fresh_for=fresh_for, offline=offline) else Revalidate(fact)


def is_low(left: int, limit: int | None) -> bool:
    """Whether few of the pulls that upstream grants are left: less than a tenth (none, where the limit isn't told)."""
    return left <= 0 if limit is None else left * 10 < limit


def fresh_for(usually: float, when_low: float, *, low: bool) -> float:
    """Seconds that a tag holds: with few pulls left perhaps longer than usually, and never shorter."""
    return max(usually, when_low) if low else usually


def may_stand_in(fact: TagFact, failure: MirrorError, *, now: float, stale_for: float) -> bool:
    """Whether a tag that upstream could not confirm may be served as it was last seen (RFC 9111, 4.2.4).

    Not when upstream said that it is gone: then it is gone here too.
    """
    return isinstance(failure, UpstreamError) and now - fact.checked < stale_for


def is_gone(failure: MirrorError) -> bool:
    """Whether upstream itself said that it does not have what was asked for."""
    return isinstance(failure, ContentUnknown)


def most_telling(failures: Sequence[MirrorError]) -> MirrorError:
    """What a client is to hear where several endpoints failed: what may yet end comes before what is for good.

    So it is a 404 only if each of them said so: otherwise clients would take for gone what is out of reach.
    """
    for kind in (UpstreamThrottled, UpstreamUnavailable, UpstreamCorrupt, UpstreamRefused, UpstreamError):
        for failure in failures:
            if isinstance(failure, kind):
                return failure
    return failures[0]


def share_of(left: float, *, of: float, waiting: int, is_probe: bool) -> float:
    """Seconds for which one endpoint may keep a question for which *left* seconds *of* all are left.

    Args:
        waiting: how many more may be asked if this one says nothing; they get as much.
        is_probe: whether it was down, while another one is up: little goes into trying it.
    """
    share = left / (1 + waiting)
    return min(share, of * _PROBING) if is_probe else share


def as_told_to(failure: MirrorError, *, by_path: bool) -> MirrorError:
    """The failure as this client should see it: who named the upstream in the path can't fall back, and may wait."""
    if by_path and isinstance(failure, UpstreamThrottled):
        return PathThrottled(str(failure), retry_after=failure.retry_after, **failure.detail)
    return failure


@dataclass(frozen=True, slots=True)
class Stored:
    """A blob in the store, as eviction sees it."""

    digest: Digest
    size: int


def victims(oldest_first: Iterable[Stored], *, excess: int, held: Container[Digest]) -> list[Stored] | None:
    """Which blobs to evict so that *excess* bytes become free: the least recently used that nobody holds.

    Returns:
        None when even all of them would not do: then none should go.
    """
    chosen: list[Stored] = []
    for stored in oldest_first:
        if excess <= 0:
            break
        if stored.digest in held or not stored.size:
            continue
        chosen.append(stored)
        excess -= stored.size
    return chosen if excess <= 0 else None


def is_far(ahead: int, *, came: int, seconds: float, patience: float) -> bool:
    """Whether *ahead* bytes more will take a running download longer than *patience* seconds, at its pace so far.

    Args:
        came: bytes that came in *seconds*, since the first one.
    """
    if ahead <= _NEAR:
        return False
    return ahead * seconds > patience * came if came else ahead > _UNKNOWN_PACE
