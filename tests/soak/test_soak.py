"""The soak for half a minute: no wrong bytes, no violated rule, no leak."""

import time
from pathlib import Path

from tests.soak.report import report
from tests.soak.run import Plan, Soak

SECONDS = 16.0


async def test_soak_for_half_a_minute(tmp_path: Path) -> None:
    """Clients of all kinds, storms and outages upstream, one kill -9 and some restarts; then rest."""
    plan = Plan(SECONDS, clients=8, seed=f"{time.time_ns():x}", storm=1.0, lives=2.0)
    async with Soak.prepared(plan, tmp_path) as soak:
        await soak.run()
        print(report(soak))
        assert not soak.model.broken, report(soak)
        assert soak.service.ends["SIGKILL"]
        assert len(soak.weather.struck) > 3
        assert soak.model.seen["blob", "right"] > 50
