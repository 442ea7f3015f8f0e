"""Finding: the result of one check, with a fix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """Result of a check: OK; WARNING: it works, but poorly or not permanently; PROBLEM: it does not work."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check.

    Attributes:
        subject: the checked thing.
        message: the observation.
        fix: the action to take, in the imperative; None if there is none.
    """

    subject: str
    verdict: Verdict
    message: str
    fix: str | None = None

    def __str__(self) -> str:
        message = " ".join(self.message.split())
        line = f"{self.verdict:<8} {self.subject}: {message}"
        return line if self.fix is None else f"{line} -> {self.fix}"


def ok(subject: str, message: str) -> Finding:
    return Finding(subject, Verdict.OK, message)


def warning(subject: str, message: str, fix: str) -> Finding:
    return Finding(subject, Verdict.WARNING, message, fix)


def problem(subject: str, message: str, fix: str | None) -> Finding:
    """Return a finding of a problem. With no *fix*, *message* already contains it."""
    return Finding(subject, Verdict.PROBLEM, message, fix)


def worst(findings: Iterable[Finding]) -> Verdict:
    """Return the most severe verdict among *findings*."""
    verdicts = {finding.verdict for finding in findings}
    return next((verdict for verdict in (Verdict.PROBLEM, Verdict.WARNING) if verdict in verdicts), Verdict.OK)
