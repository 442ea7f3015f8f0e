"""docs/operating.md tells of every figure, and of none that is not there."""

import re

from mirror.observability.metrics import Metrics
from tests.real.mirror import ROOT

_KIND = re.compile(r"^# TYPE (mirror_\w+) (\w+)$", re.MULTILINE)


def test_every_figure_is_in_the_table() -> None:
    """By the name that Prometheus sees."""
    exposed = {name for name, _ in _KIND.findall(Metrics().exposition().decode()) if not name.endswith("_created")}
    told = set(re.findall(r"`(mirror_\w+)", (ROOT / "docs" / "operating.md").read_text()))
    assert told == exposed
