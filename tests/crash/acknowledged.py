"""Facts that a mirror must still have after a crash: everything that its responses have acknowledged."""

import time
from dataclasses import dataclass, field

UNSYNCED_FOR = 0.25  # seconds before a kill; a response may leave while another request still writes the same fact


@dataclass(slots=True)
class Acknowledged:
    """Facts with the time of the first response that acknowledged each."""

    tags: dict[tuple[str, str], tuple[str, float]] = field(default_factory=dict)  # (repository, tag) -> digest, time
    held: dict[tuple[str, str], float] = field(default_factory=dict)  # (repository, digest) -> time
    pulled: dict[tuple[str, str], float] = field(default_factory=dict)  # those of `held` that the upstream sent

    def learn(self, repository: str, digest: str, *, pulled: bool) -> None:
        """Record that the mirror has served this digest in that repository; *pulled*: while it downloaded it there."""
        self.held.setdefault((repository, digest), time.monotonic())
        if pulled:
            self.pulled.setdefault((repository, digest), time.monotonic())

    def learn_tag(self, repository: str, tag: str, digest: str, *, pulled: bool) -> None:
        """Record that the mirror has served this tag; it is fresh for a day, so the mirror must not move it."""
        known, _ = self.tags.setdefault((repository, tag), (digest, time.monotonic()))
        assert known == digest, f"{repository}:{tag} was {known}, and is {digest} though it is still fresh"
        self.learn(repository, digest, pulled=pulled)

    def drop_unsynced(self) -> None:
        """Drop facts that the mirror may have lost: those written immediately before the kill."""
        limit = time.monotonic() - UNSYNCED_FOR
        self.tags = {key: fact for key, fact in self.tags.items() if fact[1] < limit}
        self.held = {key: when for key, when in self.held.items() if when < limit}
        self.pulled = {key: when for key, when in self.pulled.items() if when < limit}

    def clear(self) -> None:
        """Drop all facts: the fact database is lost."""
        self.tags.clear()
        self.held.clear()
        self.pulled.clear()
