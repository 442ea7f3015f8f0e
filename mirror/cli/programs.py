"""Programs: what the commands do with their settings. Built where the parts are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

from mirror.admin.client import AdminClient
from mirror.config import Settings
from mirror.doctor import Finding
from mirror.maintenance.verify import Findings

_Result = TypeVar("_Result")


class Programs(Protocol):
    """What the program can do."""

    def serve(self, settings: Settings, /) -> None:
        """Serves until it is told to stop."""

    def verify(self, settings: Settings, /, *, repair: bool, jobs: int) -> Findings:
        """Looks at all that is stored."""

    def diagnose(self, settings: Settings, /, *, config: Path | None, root: Path) -> list[Finding]:
        """Check everything that the mirror needs."""

    def ask(self, settings: Settings, job: Callable[[AdminClient], Awaitable[_Result]], /) -> _Result:
        """Does *job* with the mirror that holds the cache: one that runs, or one for as long as this takes."""
