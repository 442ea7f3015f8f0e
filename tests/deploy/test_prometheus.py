"""Prometheus rules and Grafana dashboard: every metric exists, and Prometheus evaluates every expression."""

import json
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import yaml

from tests.deploy.files import DEPLOY
from tests.fake.content import image
from tests.fake.faults import Header
from tests.fake.registry import Registry
from tests.http.client import Client
from tests.real.mirror import mirror
from tests.real.program import eventually, ran
from tests.real.prometheus import Prometheus, configured, prometheus, promql_names

FOLDER = DEPLOY / "prometheus"
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"]
    for rule in group["rules"]
}
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
SHOWN = {
    f"{panel['title']} {target['refId']}": str(target["expr"])
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}
SELECTOR = re.compile(r"((?:mirror|process)_\w+)(?:\{([^}]*)\})?")

needs_prometheus = pytest.mark.needs("prometheus", "promtool")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scraping(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Prometheus]:
    """A Prometheus with the configuration and rules of deploy/, and a mirror that has served pulls."""
    directory = tmp_path_factory.mktemp("prometheus")
    async with Registry.running() as hub, mirror(directory / "mirror", upstreams={"docker.io": hub.url}) as served:
        hub.inject(Header("ratelimit-limit", "100;w=21600"), "*/manifests/*")
        hub.inject(Header("ratelimit-remaining", "76;w=21600"), "*/manifests/*")
        hub.publish("library/app", made := image(50_000), "v1")
        (directory / "rules.yaml").write_text((FOLDER / "rules.yaml").read_text())
        text = (FOLDER / "prometheus.yaml").read_text()
        text = configured(text, scrape_interval="200ms", evaluation_interval="1s", targets=f'["{served.host}"]')
        async with prometheus(directory, text) as started, Client.of(served.url) as client:

            async def both_pulled_and_seen() -> bool:
                for target in ("manifests/v1", "manifests/none", f"blobs/{made.blobs[1].digest}"):
                    await client.get(f"/v2/library/app/{target}")
                return bool(await started.query('rate(mirror_requests_total{kind="error"}[1m]) > 0'))

            await eventually(both_pulled_and_seen, within=20)
            yield started


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """Return each metric of an expression with the labels it selects by."""
    return [(name, set(re.findall(r"(\w+)\s*=?[=~!]", inside))) for name, inside in SELECTOR.findall(expression)]


async def assert_metrics_exist(scraping: Prometheus, expression: str) -> None:
    """Assert that each metric of an expression exists with the labels it selects and aggregates by."""
    kept = {label for found in re.findall(r"\bby \(([^)]*)\)", expression) for label in re.split(r",\s*", found)}
    known: set[str] = set()
    for name, picked in selectors(expression):
        labels = {label for series in await scraping.query(name) for label in series}
        assert labels, f"no {name}"
        assert picked <= labels, f"{name} has {sorted(labels)}"
        known |= labels
    assert kept <= known, f"{expression}: there are {sorted(known)}"


def with_grafana_variables(expression: str) -> str:
    """Replace the variables that Grafana fills in."""
    for name, value in {"$instance": ".*", "$upstream": ".*", "$__rate_interval": "1m", "$__range": "1h"}.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


@needs_prometheus
@pytest.mark.parametrize(
    "command",
    [("check", "config", "prometheus.yaml"), ("check", "rules", "rules.yaml"), ("test", "rules", "rules.test.yaml")],
)
async def test_promtool_accepts_rules_and_configuration(command: tuple[str, ...]) -> None:
    """rules.test.yaml has the conditions of each alert."""
    *arguments, file = command
    result = await ran("promtool", *arguments, str(FOLDER / file))
    assert result.code == 0, str(result)


def test_each_alert_has_a_rule_test() -> None:
    """rules.test.yaml tests every alert; each alert has a severity, a summary and a description."""
    tested = (FOLDER / "rules.test.yaml").read_text()
    for name, rule in ALERTS.items():
        assert f'"{name}"' in tested, name
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}, name
        assert rule["annotations"].keys() == {"summary", "description"}, name


@needs_prometheus
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("panel", SHOWN)
async def test_each_dashboard_query_has_a_result(scraping: Prometheus, panel: str) -> None:
    """The queries are run against a healthy mirror."""
    expression = with_grafana_variables(SHOWN[panel])
    assert await scraping.query(expression), expression
    await assert_metrics_exist(scraping, expression)


@needs_prometheus
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("alert", ALERTS)
async def test_each_alert_uses_existing_metrics(scraping: Prometheus, alert: str) -> None:
    """An alert with a misspelt metric would never fire."""
    await assert_metrics_exist(scraping, str(ALERTS[alert]["expr"]))


@needs_prometheus
@pytest.mark.asyncio(loop_scope="module")
async def test_prometheus_evaluates_every_alert(scraping: Prometheus) -> None:
    """The alerts are evaluated with metrics of a running mirror."""

    async def all_are_evaluated() -> bool:
        health = await scraping.rules()
        assert "err" not in health.values(), health
        return health.keys() == ALERTS.keys() and set(health.values()) == {"ok"}

    await eventually(all_are_evaluated)


def test_dashboard_shows_the_metrics_of_the_alerts() -> None:
    """The dashboard has the metrics that an operator checks after an alert."""
    shown = set().union(*map(promql_names, SHOWN.values()))
    warned = set().union(*(promql_names(str(rule["expr"])) for rule in ALERTS.values()))
    assert len(warned) > 10
    assert warned <= shown


def test_dashboard_panels_do_not_overlap() -> None:
    """No panel overlaps another or exceeds the width; all use the chosen data source."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
        assert panel["description"], panel["title"]
        assert {panel["datasource"]["uid"], *(one["datasource"]["uid"] for one in panel["targets"])} == {
            "${datasource}"
        }
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
