"""The registry API: each request to the part that answers it, each failure to an answer that says what to do."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import assert_never

import structlog
from aiohttp import web

from mirror.errors import MethodUnsupported, MirrorError
from mirror.metrics import Metrics
from mirror.oci.names import Upstreams
from mirror.oci.routes import Api, BlobRoute, ManifestRoute, Probe, ReferrersRoute, Route, TagsRoute, parse_route
from mirror.policy import as_told_to
from mirror.pulls import Pulls
from mirror.server.answers import api_answer, error_answer
from mirror.server.blobs import Blobs
from mirror.server.lists import Lists
from mirror.server.manifests import Manifests
from mirror.server.record import Record
from mirror.server.wire import ClientGone, Headers, Sent, answer, render, sent, taken
from mirror.upstream.registry import Registry

_ROUTES = 8192  # request targets whose meaning is kept at hand
_UNTAKEN = 2**20  # bytes of answers that a client may leave unread before it gets no more of them
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
log = structlog.get_logger()


class App:
    """Handles requests."""

    def __init__(
        self, upstreams: Upstreams, pulls: Pulls, registries: Mapping[str, Registry], metrics: Metrics
    ) -> None:
        self._route = lru_cache(_ROUTES)(partial(parse_route, upstreams=upstreams))
        self._registries = registries
        self._metrics = metrics
        self._record = Record(metrics)
        self._manifests = Manifests(pulls, self._record)
        self._blobs = Blobs(pulls, self._record)
        self._lists = Lists(pulls, self._record)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers a request. Raises nothing but cancellation, which means that the client left."""
        started = time.perf_counter()
        route: Route | None = None
        try:
            _check_method(request)
            route = self._route(request.raw_path)
            await taken(request, most=_UNTAKEN)
            return await self._answer(request, route, started)
        except MirrorError as failure:
            return self._failed(request, route, failure, started)
        except ClientGone:
            return sent(keep_alive=False)
        except Exception as error:
            log.exception("request_crashed", target=request.raw_path[:256])
            crash = MirrorError("the mirror failed; its log says more", error=type(error).__name__)
            return self._failed(request, route, crash, started)

    async def _answer(self, request: web.BaseRequest, route: Route, started: float) -> Sent:
        match route:
            case ManifestRoute():
                return await self._manifests.answer(request, route, started)
            case BlobRoute():
                return await self._blobs.answer(request, route, started)
            case TagsRoute() | ReferrersRoute():
                return await self._lists.answer(request, route, started)
            case Api():
                self._record.count("api", "answered")
                headers, body = api_answer()
                return answer(request, render(200, headers), body)
            case Probe():
                return self._probe(request, route)
            case _:
                assert_never(route)

    def _failed(self, request: web.BaseRequest, route: Route | None, failure: MirrorError, started: float) -> Sent:
        asked = getattr(route, "asked", None)
        failure = as_told_to(failure, by_path=asked is not None and asked.by_path)
        self._record.failed(request, failure, started)
        status, headers, body = error_answer(failure)
        try:
            return answer(request, render(status, headers), body)
        except ClientGone:
            return sent(keep_alive=False)

    def _probe(self, request: web.BaseRequest, probe: Probe) -> Sent:
        match probe.name:
            case "healthz":
                media_type, body = "application/json", b'{"status":"alive"}'
            case "readyz":
                states = {name: "down" if one.is_down else "up" for name, one in self._registries.items()}
                media_type, body = "application/json", json.dumps({"status": "ready", "upstreams": states}).encode()
            case "metrics":
                media_type, body = _METRICS_TYPE, self._metrics.exposition()
            case _:
                assert_never(probe.name)
        headers: Headers = [("Content-Type", media_type), ("Content-Length", str(len(body)))]
        return answer(request, render(200, headers), body)


def _check_method(request: web.BaseRequest) -> None:
    if request.method not in {"GET", "HEAD"}:
        method = request.method[:16]
        raise MethodUnsupported(
            f"{method} is not for a mirror: it is read-only; push to the upstream registry itself", method=method
        )
