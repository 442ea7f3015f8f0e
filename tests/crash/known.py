"""What a mirror must still know after a crash: all that it had answered a moment before."""

import time
from dataclasses import dataclass, field

INSTANTS = 0.25  # seconds before a kill; an answer may leave while another request still writes down the same fact


@dataclass(slots=True)
class Known:
    """Facts by the time at which somebody was first told of them."""

    tags: dict[tuple[str, str], tuple[str, float]] = field(default_factory=dict)  # (repository, tag) -> digest, when
    held: dict[tuple[str, str], float] = field(default_factory=dict)  # (repository, digest) -> when

    def learn(self, repository: str, digest: str) -> None:
        """The mirror has answered for this digest under that repository."""
        self.held.setdefault((repository, digest), time.monotonic())

    def learn_tag(self, repository: str, tag: str, digest: str) -> None:
        """The mirror has answered for this tag. It is fresh for a day, so it must not move in the mirror."""
        known, _ = self.tags.setdefault((repository, tag), (digest, time.monotonic()))
        assert known == digest, f"{repository}:{tag} was {known}, and is {digest} though it is still fresh"
        self.learn(repository, digest)

    def crashed(self) -> None:
        """Forget what the mirror may have lost: what was written in the last instants."""
        limit = time.monotonic() - INSTANTS
        self.tags = {key: fact for key, fact in self.tags.items() if fact[1] < limit}
        self.held = {key: when for key, when in self.held.items() if when < limit}

    def clear(self) -> None:
        """The ledger is gone."""
        self.tags.clear()
        self.held.clear()
