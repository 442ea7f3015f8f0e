"""Prometheus metrics of the mirror. The packages count; the server exposes them at /metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

FIRST_BYTE_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class RequestCounts:
    """The requests about one upstream, as plain numbers.

    Metrics that change with every request are converted on a scrape: prometheus_client's own counters are thread-safe,
    and would take a tenth of the time of a hit.

    Attributes:
        outcomes: requests by kind (manifest, blob, tags, referrers, api, token, error) and outcome.
        served_bytes: bytes of content sent to clients.
        first_bytes: responses by the bucket of `FIRST_BYTE_BUCKETS` of their time to the first byte, not cumulative.
        first_byte_seconds: the sum of these times.
    """

    __slots__ = ("first_byte_seconds", "first_bytes", "outcomes", "served_bytes")

    def __init__(self) -> None:
        self.outcomes = defaultdict[tuple[str, str], int](int)
        self.served_bytes = 0
        self.first_bytes = [0] * (len(FIRST_BYTE_BUCKETS) + 1)
        self.first_byte_seconds = 0.0


class Metrics:
    """The metrics of one mirror.

    Attributes:
        requests: the counts of requests, by upstream; "" for requests that concern none.
        pulls: pulls left and the limit (None if unknown), by upstream.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = defaultdict[str, RequestCounts](RequestCounts)
        self.pulls: dict[str, tuple[int, int | None]] = {}
        self._registry.register(self)
        self.upstream_requests = Counter(
            "mirror_upstream_requests",
            "Requests to upstreams, by upstream and status (or the kind of failure)",
            ("upstream", "status"),
            registry=self._registry,
        )
        self.upstream_up = Gauge(
            "mirror_upstream_up",
            "Whether an upstream's endpoint is usable (1), or failed its last request (0)",
            ("upstream", "endpoint"),
            registry=self._registry,
        )
        self.upstream_blobs = Gauge(
            "mirror_upstream_blobs",
            "Blobs being fetched from an upstream (state fetching), and blobs waiting for a slot (waiting)",
            ("upstream", "state"),
            registry=self._registry,
        )
        self.upstream_bytes = Counter(
            "mirror_upstream_bytes", "Bytes of content received from upstreams", registry=self._registry
        )
        self.cache_bytes = Gauge(
            "mirror_cache_bytes",
            "Bytes in blobs/ and ingest/, and bytes reserved for running downloads",
            registry=self._registry,
        )
        self.cache_limit_bytes = Gauge(
            "mirror_cache_limit_bytes", "Maximum size of the cache (cache.max_size)", registry=self._registry
        )
        self.cache_writable = Gauge(
            "mirror_cache_writable",
            "Whether the last write to the cache directory succeeded (1), or pulls are served unstored (0)",
            registry=self._registry,
        )
        self.evictions = Counter("mirror_evictions", "Blobs evicted to free space", registry=self._registry)
        self.blobs_damaged = Counter("mirror_blobs_damaged", "Blobs found damaged and removed", registry=self._registry)
        self.scrubbed_bytes = Counter(
            "mirror_scrubbed_bytes", "Bytes of stored blobs read to find damage", registry=self._registry
        )
        self.downloads_running = Gauge("mirror_downloads_running", "Downloads in progress", registry=self._registry)
        self.connections = Gauge("mirror_connections", "Open client connections", registry=self._registry)
        self.connections_limit = Gauge(
            "mirror_connections_limit",
            "Maximum number of client connections: limits.connections, or fewer if file descriptors are scarce",
            registry=self._registry,
        )
        self.tasks = Gauge("mirror_tasks", "Tasks in the event loop", registry=self._registry)
        ProcessCollector(registry=self._registry)  # process_…: memory, CPU time, file descriptors

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics that are kept as plain numbers (interface of prometheus_client's Collector)."""
        requests = CounterMetricFamily(
            "mirror_requests",
            "Answered requests, by kind, outcome and upstream",
            labels=("kind", "outcome", "upstream"),
        )
        served = CounterMetricFamily(
            "mirror_served_bytes", "Bytes of content sent to clients, by upstream", labels=("upstream",)
        )
        first_bytes = HistogramMetricFamily(
            "mirror_first_byte_seconds",
            "Seconds from a request to the first byte of its response, by upstream",
            labels=("upstream",),
        )
        bounds = (*map(str, FIRST_BYTE_BUCKETS), "+Inf")
        for upstream, counts in self.requests.items():
            for (kind, outcome), count in counts.outcomes.items():
                requests.add_metric((kind, outcome, upstream), count)
            if not upstream:
                continue
            served.add_metric((upstream,), counts.served_bytes)
            buckets = list(zip(bounds, accumulate(counts.first_bytes), strict=True))
            first_bytes.add_metric((upstream,), buckets, counts.first_byte_seconds)
        yield from (requests, served, first_bytes)
        left = GaugeMetricFamily(
            "mirror_upstream_pulls_left",
            "Pulls left in the upstream's quota (ratelimit-remaining)",
            labels=("upstream",),
        )
        limit = GaugeMetricFamily(
            "mirror_upstream_pulls_limit", "Pull quota of the upstream (ratelimit-limit)", labels=("upstream",)
        )
        for upstream, (pulls, total) in self.pulls.items():
            left.add_metric((upstream,), pulls)
            if total is not None:
                limit.add_metric((upstream,), total)
        yield from (left, limit)

    def exposition(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)
