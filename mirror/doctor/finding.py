"""A finding: one check, how it ended, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a check ended: all is well; it works, but not as well as it could, or not for ever; it does not work."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check came to.

    Attributes:
        cure: what to do, in the imperative; None where there is nothing to do.
    """

    subject: str
    verdict: Verdict
    says: str
    cure: str | None = None

    def __str__(self) -> str:
        says = " ".join(self.says.split())
        line = f"{self.verdict:<8} {self.subject}: {says}"
        return line if self.cure is None else f"{line} -> {self.cure}"


def ok(subject: str, says: str) -> Finding:
    return Finding(subject, Verdict.OK, says)


def warning(subject: str, says: str, cure: str) -> Finding:
    return Finding(subject, Verdict.WARNING, says, cure)


def problem(subject: str, says: str, cure: str | None) -> Finding:
    """Something does not work. Without a cure *says* names it already."""
    return Finding(subject, Verdict.PROBLEM, says, cure)


def worst(findings: Iterable[Finding]) -> Verdict:
    """The verdict on all of them."""
    verdicts = {finding.verdict for finding in findings}
    return next((verdict for verdict in (Verdict.PROBLEM, Verdict.WARNING) if verdict in verdicts), Verdict.OK)
