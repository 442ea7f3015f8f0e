"""The figures that the mirror counts, for Prometheus. Parts count; the server shows them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

_FIRST_BYTE = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """One set of figures, for one mirror.

    What is counted with every request is a plain number, and made into figures when somebody looks: prometheus_client's
    own counters are for threads, and would take a tenth of the time of a hit.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Tally[tuple[str, str]]()
        self._first_bytes = [0] * (len(_FIRST_BYTE) + 1)
        self._first_byte_seconds = 0.0
        self.served_bytes = 0
        self.pulls: dict[str, tuple[int, int | None]] = {}  # by upstream: how many it still grants, and of how many
        self._registry.register(self)
        self.upstream_requests = Counter(
            "mirror_upstream_requests",
            "Requests to upstreams, by upstream and status (or the kind of failure)",
            ("upstream", "status"),
            registry=self._registry,
        )
        self.upstream_up = Gauge(
            "mirror_upstream_up",
            "Whether an upstream's endpoint can be counted on (1), or failed when it was last asked (0)",
            ("upstream", "endpoint"),
            registry=self._registry,
        )
        self.upstream_blobs = Gauge(
            "mirror_upstream_blobs",
            "Blobs being fetched from an upstream (state fetching), and waiting for their turn (waiting)",
            ("upstream", "state"),
            registry=self._registry,
        )
        self.upstream_bytes = Counter(
            "mirror_upstream_bytes", "Bytes of content received from upstreams", registry=self._registry
        )
        self.cache_bytes = Gauge(
            "mirror_cache_bytes", "Bytes in blobs/ and ingest/, and room kept for more", registry=self._registry
        )
        self.cache_limit_bytes = Gauge("mirror_cache_limit_bytes", "max_size", registry=self._registry)
        self.cache_writable = Gauge(
            "mirror_cache_writable",
            "Whether the cache directory could be written when last tried (1), or pulls pass through unstored (0)",
            registry=self._registry,
        )
        self.evictions = Counter("mirror_evictions", "Blobs evicted to make room", registry=self._registry)
        self.blobs_damaged = Counter(
            "mirror_blobs_damaged", "Blobs that were found to be damaged, and removed", registry=self._registry
        )
        self.scrubbed_bytes = Counter(
            "mirror_scrubbed_bytes", "Bytes of stored blobs read to find damage", registry=self._registry
        )
        self.downloads_running = Gauge("mirror_downloads_running", "Downloads under way", registry=self._registry)
        self.connections = Gauge("mirror_connections", "Connections of clients", registry=self._registry)
        self.connections_limit = Gauge(
            "mirror_connections_limit",
            "How many there may be: limits.connections, or as many as there are descriptors for",
            registry=self._registry,
        )
        self.tasks = Gauge("mirror_tasks", "Tasks of the event loop", registry=self._registry)
        ProcessCollector(registry=self._registry)  # memory, processor time and descriptors: process_…

    def count_request(self, kind: str, outcome: str) -> None:
        """An answered request, by kind (manifest, blob, tags, referrers, api, error) and outcome."""
        self._requests[kind, outcome] += 1

    def observe_first_byte(self, seconds: float) -> None:
        """The time from a request to the first byte of its answer."""
        self._first_bytes[bisect_left(_FIRST_BYTE, seconds)] += 1
        self._first_byte_seconds += seconds

    def collect(self) -> Iterator[Metric]:
        """What is kept as plain numbers (prometheus_client's Collector)."""
        requests = CounterMetricFamily(
            "mirror_requests", "Answered requests, by kind and outcome", labels=("kind", "outcome")
        )
        for labels, count in self._requests.items():
            requests.add_metric(labels, count)
        yield requests
        yield CounterMetricFamily("mirror_served_bytes", "Bytes of content sent to clients", value=self.served_bytes)
        left = GaugeMetricFamily(
            "mirror_upstream_pulls_left", "Pulls that upstream still grants (ratelimit-remaining)", labels=("upstream",)
        )
        limit = GaugeMetricFamily(
            "mirror_upstream_pulls_limit", "Pulls that upstream grants in all (ratelimit-limit)", labels=("upstream",)
        )
        for upstream, (pulls, most) in self.pulls.items():
            left.add_metric((upstream,), pulls)
            if most is not None:
                limit.add_metric((upstream,), most)
        yield from (left, limit)
        bounds = (*map(str, _FIRST_BYTE), "+Inf")
        yield HistogramMetricFamily(
            "mirror_first_byte_seconds",
            "Seconds from a request to the first byte of its answer",
            buckets=list(zip(bounds, accumulate(self._first_bytes), strict=True)),
            sum_value=self._first_byte_seconds,
        )

    def exposition(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self._registry)
