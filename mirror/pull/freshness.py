"""Tag freshness: serve from cache, revalidate or fetch, and when a stale answer may be served (RFC 9111, 4.2).

Pure: every function takes the current time (seconds since the epoch) as an argument.
"""

from __future__ import annotations

from dataclasses import dataclass

from mirror.errors import ContentUnknown, MirrorError, UpstreamError
from mirror.storage.facts import TagFact


@dataclass(frozen=True, slots=True)
class Serve:
    """The tag is fresh: answer from the store."""

    fact: TagFact


@dataclass(frozen=True, slots=True)
class Revalidate:
    """The tag is known, but the upstream must confirm it first."""

    fact: TagFact


@dataclass(frozen=True, slots=True)
class Fetch:
    """No fact about the tag is known."""


Decision = Serve | Revalidate | Fetch


def is_fresh(fact: TagFact, *, now: float, fresh_for: float, offline: bool) -> bool:
    """Return whether the tag may be served without asking the upstream. Offline, every known tag is fresh.

    A check in the future (the clock was set back) proves nothing.
    """
    return offline or 0 <= now - fact.checked < fresh_for


def decide(fact: TagFact | None, *, now: float, fresh_for: float, offline: bool) -> Decision:
    """Decide how to answer a request for a tag. *fact* is None if the tag is unknown."""
    if fact is None:
        return Fetch()
    return Serve(fact) if is_fresh(fact, now=now, fresh_for=fresh_for, offline=offline) else Revalidate(fact)


def may_serve_stale(fact: TagFact, failure: MirrorError, *, now: float, stale_for: float) -> bool:
    """Return whether *fact* may be served although the upstream could not confirm it (RFC 9111, 4.2.4).

    A 404 from the upstream is an answer, not a failure to confirm: the tag is then gone here too.
    """
    return isinstance(failure, UpstreamError) and now - fact.checked < stale_for


def is_gone(failure: MirrorError) -> bool:
    """Return whether the upstream itself answered that the content does not exist."""
    return isinstance(failure, ContentUnknown)
