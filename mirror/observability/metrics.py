"""The figures that the mirror counts, for Prometheus. Parts count; the server shows them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

_FIRST_BYTE = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def _empty_buckets() -> list[int]:
    return [0] * (len(_FIRST_BYTE) + 1)


class Metrics:
    """One set of figures, for one mirror.

    What is counted with every request is a plain number, and made into figures when somebody looks: prometheus_client's
    own counters are for threads, and would take a tenth of the time of a hit.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Tally[tuple[str, str, str]]()
        self._first_bytes = defaultdict[str, list[int]](_empty_buckets)  # by upstream
        self._first_byte_seconds = defaultdict[str, float](float)  # by upstream
        self.served_bytes = Tally[str]()  # by upstream
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
        self._first_bytes[upstream][bisect_left(_FIRST_BYTE, seconds)] += 1
        self._first_byte_seconds[upstream] += seconds

    def collect(self) -> Iterator[Metric]:
        """What is kept as plain numbers (prometheus_client's Collector)."""
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

    def _first_byte_histogram(self) -> Metric:
        bounds = (*map(str, _FIRST_BYTE), "+Inf")
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
        """All figures in Prometheus' text format."""
        return generate_latest(self._registry)
