"""How hypothesis searches: without time limits, and the same way each time where CI=true."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "search", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors]
)
settings.register_profile("steady", settings.get_profile("search"), derandomize=True, database=None)
settings.load_profile("steady" if os.environ.get("CI") == "true" else "search")
