"""docs/operating.md lists exactly the exposed metrics."""

import re

from mirror.observability.metrics import Metrics
from tests.real.mirror import ROOT

_KIND = re.compile(r"^# TYPE (mirror_\w+) (\w+)$", re.MULTILINE)


def test_every_metric_is_documented() -> None:
    """Metrics are compared by the name that Prometheus scrapes."""
    exposed = {name for name, _ in _KIND.findall(Metrics().exposition().decode()) if not name.endswith("_created")}
    documented = set(re.findall(r"`(mirror_\w+)", (ROOT / "docs" / "operating.md").read_text()))
    assert documented == exposed
