"""Prometheus metrics of the mirror. The packages count; the server exposes them at /metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

_FIRST_BYTE_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def _empty_buckets() -> list[int]:
    return [0] * (len(_FIRST_BYTE_BUCKETS) + 1)


class Metrics:
    """The metrics of one mirror.

    Metrics that change with every request are plain numbers, converted on a scrape: prometheus_client's own counters
    are thread-safe, and would take a tenth of the time of a hit.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Tally[tuple[str, str, str]]()
        self._first_bytes = defaultdict[str, list[int]](_empty_buckets)  # by upstream
        self._first_byte_seconds = defaultdict[str, float](float)  # by upstream
        self.served_bytes = Tally[str]()  # by upstream
        self.pulls: dict[str, tuple[int, int | None]] = {}  # by upstream: pulls left, and the limit
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

    def add_upstreams(self, upstreams: Iterable[str]) -> None:
        """Start the figures of these upstreams at 0, so that Prometheus sees the first increase."""
        for upstream in upstreams:
            self.served_bytes[upstream] += 0
            self._first_bytes.setdefault(upstream, _empty_buckets())

    def count_request(self, kind: str, outcome: str, upstream: str) -> None:
        """Count an answered request.

        Args:
            kind: manifest, blob, tags, referrers, api, token or error.
            upstream: empty if the request is about no upstream.
        """
        self._requests[kind, outcome, upstream] += 1

    def observe_first_byte(self, seconds: float, upstream: str) -> None:
        """Count the time from a request to the first byte of its response."""
        self._first_bytes[upstream][bisect_left(_FIRST_BYTE_BUCKETS, seconds)] += 1
        self._first_byte_seconds[upstream] += seconds

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics that are kept as plain numbers (interface of prometheus_client's Collector)."""
        requests = CounterMetricFamily(
            "mirror_requests",
            "Answered requests, by kind, outcome and upstream",
            labels=("kind", "outcome", "upstream"),
        )
        for labels, count in self._requests.items():
            requests.add_metric(labels, count)
        yield requests
        served = CounterMetricFamily(
            "mirror_served_bytes", "Bytes of content sent to clients, by upstream", labels=("upstream",)
        )
        for upstream, size in self.served_bytes.items():
            served.add_metric((upstream,), size)
        yield served
        yield self._first_byte_histogram()
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

    def _first_byte_histogram(self) -> Metric:
        bounds = (*map(str, _FIRST_BYTE_BUCKETS), "+Inf")
        histogram = HistogramMetricFamily(
            "mirror_first_byte_seconds",
            "Seconds from a request to the first byte of its response, by upstream",
            labels=("upstream",),
        )
        for upstream, counts in self._first_bytes.items():
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            histogram.add_metric((upstream,), buckets, self._first_byte_seconds[upstream])
        return histogram

    def exposition(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)
