"""Rate-limited log: one event a minute of each kind, and a bounded number of kinds in memory."""

from mirror.observability import log
from mirror.observability.log import RateLimitedLog

Logged = list[tuple[str, dict[str, object]]]


class Log:
    """A logger that keeps its events."""

    def __init__(self) -> None:
        self.logged: Logged = []

    def info(self, event: str, **facts: object) -> None:
        self.logged.append((event, facts))


def test_event_is_logged_once_a_minute() -> None:
    """The first event is logged at once, then one a minute with the number of suppressed events."""
    now, sink = [0.0], Log()
    limited = RateLimitedLog(sink, clock=lambda: now[0])
    for now[0] in (0.0, 1.0, 59.9, 60.0, 61.0):
        limited.info("happened", at=int(now[0]))
    assert sink.logged == [("happened", {"at": 0}), ("happened", {"at": 60, "suppressed": 2})]


def test_kinds_are_limited_separately() -> None:
    """An event of another kind is logged at once, and the counts are separate."""
    now, sink = [0.0], Log()
    limited = RateLimitedLog(sink, clock=lambda: now[0])
    for now[0], kind in ((0.0, "a"), (1.0, "b"), (2.0, "a"), (70.0, "b"), (70.0, "a")):
        limited.info("happened", kind, of=kind)
    assert sink.logged == [
        ("happened", {"of": "a"}),
        ("happened", {"of": "b"}),
        ("happened", {"of": "b"}),
        ("happened", {"of": "a", "suppressed": 1}),
    ]


def test_memory_is_bounded() -> None:
    """The least recently used kind is forgotten: its next event is logged again."""
    sink = Log()
    limited = RateLimitedLog(sink, clock=lambda: 0.0)
    for number in range(log._MAX_KINDS + 1):
        limited.info("happened", f"kind {number}")
        limited.info("happened", f"kind {number}")
    assert len(limited._recent) == len(limited._suppressed) == log._MAX_KINDS
    before = len(sink.logged)
    limited.info("happened", "kind 0")
    limited.info("happened", f"kind {log._MAX_KINDS}")
    assert sink.logged[before:] == [("happened", {})]
