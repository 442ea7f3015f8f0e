"""Request metrics: their label for the upstream, and series that exist before the first request."""

import time

from prometheus_client.parser import text_string_to_metric_families

from mirror.observability.metrics import Metrics
from mirror.server.access_log import AccessLog

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def series(metrics: Metrics, name: str) -> Series:
    """Return the samples of a metric family, by sample name and labels."""
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith(name)
    }


def test_requests_are_counted_by_kind_outcome_and_upstream() -> None:
    """Requests about no upstream have an empty label."""
    metrics = Metrics()
    metrics.requests["quay.io"].outcomes["blob", "hit"] += 1
    metrics.requests["quay.io"].outcomes["blob", "hit"] += 1
    metrics.requests["docker.io"].outcomes["blob", "hit"] += 1
    metrics.requests[""].outcomes["api", "answered"] += 1

    def key(kind: str, outcome: str, upstream: str) -> tuple[str, tuple[tuple[str, str], ...]]:
        return "mirror_requests_total", (("kind", kind), ("outcome", outcome), ("upstream", upstream))

    assert series(metrics, "mirror_requests") == {
        key("blob", "hit", "quay.io"): 2,
        key("blob", "hit", "docker.io"): 1,
        key("api", "answered", ""): 1,
    }


def test_configured_upstreams_start_at_zero() -> None:
    """A rate needs a sample before the first increase."""
    metrics = Metrics()
    access_log = AccessLog(metrics, ["docker.io", "quay.io"])
    metrics.requests["quay.io"].served_bytes += 5
    access_log.first_byte(time.perf_counter() - 0.002, "quay.io")
    docker, quay = ("upstream", "docker.io"), ("upstream", "quay.io")
    assert series(metrics, "mirror_served_bytes") == {
        ("mirror_served_bytes_total", (docker,)): 0,
        ("mirror_served_bytes_total", (quay,)): 5,
    }
    found = series(metrics, "mirror_first_byte_seconds")
    assert found["mirror_first_byte_seconds_count", (docker,)] == 0
    assert found["mirror_first_byte_seconds_count", (quay,)] == 1
    assert 0.002 <= found["mirror_first_byte_seconds_sum", (quay,)] < 10
    assert found["mirror_first_byte_seconds_bucket", (("le", "0.001"), quay)] == 0
    assert found["mirror_first_byte_seconds_bucket", (("le", "10.0"), quay)] == 1
