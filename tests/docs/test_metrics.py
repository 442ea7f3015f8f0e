"""docs/operating.md lists exactly the exposed metrics, and every outcome of a request."""

import re

from mirror.errors import MirrorError
from mirror.observability.metrics import Metrics
from mirror.pull.results import CacheOutcome
from tests.real.mirror import ROOT

_KIND = re.compile(r"^# TYPE (mirror_\w+) (\w+)$", re.MULTILINE)


def test_every_metric_is_documented() -> None:
    """Metrics are compared by the name that Prometheus scrapes."""
    exposed = {name for name, _ in _KIND.findall(Metrics().exposition().decode()) if not name.endswith("_created")}
    documented = set(re.findall(r"`(mirror_\w+)", (ROOT / "docs" / "operating.md").read_text()))
    assert documented == exposed


def test_every_outcome_is_documented() -> None:
    """The table of outcomes has those of answers, and the codes of all errors."""
    table = (ROOT / "docs" / "operating.md").read_text().partition("| outcome | meaning |")[2].partition("\n\n")[0]
    documented = {name for cell in re.findall(r"^\|([^|]*)", table, re.MULTILINE) for name in re.findall(r"\w+", cell)}
    answers = {outcome.value for outcome in CacheOutcome} | {"aborted", "client_disconnected", "answered"}
    assert documented == answers | {kind.code.lower() for kind in _kinds(MirrorError)}


def _kinds(kind: type[MirrorError]) -> set[type[MirrorError]]:
    return {kind}.union(*(_kinds(below) for below in kind.__subclasses__()))
