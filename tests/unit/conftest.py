"""Hypothesis profiles: no time limits; with CI=true the search is deterministic and does not shrink."""

import os

from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "search",
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)
settings.register_profile(
    "steady",
    settings.get_profile("search"),
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile("steady" if os.environ.get("CI") == "true" else "search")
