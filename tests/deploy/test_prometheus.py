"""Rules and dashboard: every figure they name is one that a mirror has, and Prometheus evaluates every expression."""

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
    """A Prometheus with the configuration and the rules that lie in deploy/, and a mirror that was pulled from."""
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
    """Each metric of an expression, with the labels that it is asked for."""
    return [(name, set(re.findall(r"(\w+)\s*=?[=~!]", inside))) for name, inside in SELECTOR.findall(expression)]


async def all_is_there(scraping: Prometheus, expression: str) -> None:
    """Each metric of an expression, with each label by which it picks; and those by which it sums up."""
    kept = {label for found in re.findall(r"\bby \(([^)]*)\)", expression) for label in re.split(r",\s*", found)}
    known: set[str] = set()
    for name, picked in selectors(expression):
        labels = {label for series in await scraping.query(name) for label in series}
        assert labels, f"no {name}"
        assert picked <= labels, f"{name} has {sorted(labels)}"
        known |= labels
    assert kept <= known, f"{expression}: there are {sorted(known)}"


def as_grafana_asks(expression: str) -> str:
    """With the values that Grafana fills in."""
    for name, value in {"$instance": ".*", "$upstream": ".*", "$__rate_interval": "1m", "$__range": "1h"}.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


@needs_prometheus
@pytest.mark.parametrize(
    "command",
    [("check", "config", "prometheus.yaml"), ("check", "rules", "rules.yaml"), ("test", "rules", "rules.test.yaml")],
)
async def test_promtool_finds_nothing_wrong(command: tuple[str, ...]) -> None:
    """The last one says of each alert when it comes."""
    *words, file = command
    said = await ran("promtool", *words, str(FOLDER / file))
    assert said.code == 0, str(said)


def test_each_alert_is_seen_to_come() -> None:
    """None of them is left out of what promtool tests; each says what is wrong, and how badly."""
    tested = (FOLDER / "rules.test.yaml").read_text()
    for name, rule in ALERTS.items():
        assert f'"{name}"' in tested, name
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}, name
        assert rule["annotations"].keys() == {"summary", "description"}, name


@needs_prometheus
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("panel", SHOWN)
async def test_each_query_of_the_dashboard_has_an_answer(scraping: Prometheus, panel: str) -> None:
    """From a mirror that nothing ails."""
    expression = as_grafana_asks(SHOWN[panel])
    assert await scraping.query(expression), expression
    await all_is_there(scraping, expression)


@needs_prometheus
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("alert", ALERTS)
async def test_each_alert_asks_for_figures_that_are_there(scraping: Prometheus, alert: str) -> None:
    """A misspelt one would never come."""
    await all_is_there(scraping, str(ALERTS[alert]["expr"]))


@needs_prometheus
@pytest.mark.asyncio(loop_scope="module")
async def test_prometheus_evaluates_every_alert(scraping: Prometheus) -> None:
    """On what a mirror really says."""

    async def all_are_evaluated() -> bool:
        health = await scraping.rules()
        assert "err" not in health.values(), health
        return health.keys() == ALERTS.keys() and set(health.values()) == {"ok"}

    await eventually(all_are_evaluated)


def test_the_dashboard_shows_what_the_alerts_are_about() -> None:
    """Whoever is woken by one can look at it."""
    shown = set().union(*map(promql_names, SHOWN.values()))
    warned = set().union(*(promql_names(str(rule["expr"])) for rule in ALERTS.values()))
    assert len(warned) > 10
    assert warned <= shown


def test_the_panels_of_the_dashboard_lie_side_by_side() -> None:
    """None over another, none beyond the edge; all ask the source that is chosen."""
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
