"""The figures that the mirror counts, for Prometheus. Parts count; the server shows them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_FIRST_BYTE = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """One set of figures, for one mirror."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "mirror_requests",
            "Answered requests, by kind (manifest, blob, tags, referrers, other) and outcome",
            ("kind", "outcome"),
            registry=self._registry,
        )
        self.upstream_requests = Counter(
            "mirror_upstream_requests",
            "Requests to upstreams, by upstream and status (or the name of the failure)",
            ("upstream", "status"),
            registry=self._registry,
        )
        self.served_bytes = Counter("mirror_served_bytes", "Bytes of content sent to clients", registry=self._registry)
        self.upstream_bytes = Counter(
            "mirror_upstream_bytes", "Bytes of content received from upstreams", registry=self._registry
        )
        self.cache_bytes = Gauge(
            "mirror_cache_bytes",
            "Bytes in blobs/ and ingest/, room kept for arriving ones included",
            registry=self._registry,
        )
        self.cache_limit_bytes = Gauge("mirror_cache_limit_bytes", "max_size", registry=self._registry)
        self.evictions = Counter("mirror_evictions", "Blobs evicted to make room", registry=self._registry)
        self.downloads_running = Gauge("mirror_downloads_running", "Downloads under way", registry=self._registry)
        self.first_byte = Histogram(
            "mirror_first_byte_seconds",
            "Seconds from a request to the first byte of its answer",
            buckets=_FIRST_BYTE,
            registry=self._registry,
        )

    def exposition(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self._registry)
