"""The registry API: each request to the part that answers it, each failure to an answer that says what to do."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import lru_cache, partial
from importlib.metadata import version
from typing import assert_never

import structlog
from aiohttp import web

from mirror.auth.rules import ANONYMOUS_CALLER, Caller
from mirror.errors import MethodUnsupported, MirrorError, RouteUnknown
from mirror.observability.metrics import Metrics
from mirror.oci.names import Upstreams
from mirror.oci.routes import (
    Api,
    BlobRoute,
    ManifestRoute,
    Probe,
    ReferrersRoute,
    Route,
    TagsRoute,
    TokenRoute,
    parse_route,
    shown,
)
from mirror.pull.service import PullService
from mirror.server.access_log import LONGEST_TARGET, AccessLog
from mirror.server.answers import api_answer, error_answer, for_client
from mirror.server.auth import Authenticator
from mirror.server.blobs import Blobs
from mirror.server.framing import check_framing
from mirror.server.listings import Listings
from mirror.server.manifests import Manifests
from mirror.server.response import ClientGone, Headers, Sent, answer, render, sent, taken
from mirror.server.token_service import Pulling, TokenService
from mirror.storage.disk_health import DiskHealth
from mirror.upstream.registry import Registry

_ROUTES = 8192  # request targets whose meaning is kept at hand
_UNTAKEN = 2**20  # bytes of answers that a client may leave unread before it gets no more of them
_VERSION = version("oci-mirror")
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
log = structlog.get_logger()


class App:
    """Handles requests."""

    def __init__(
        self,
        upstreams: Upstreams,
        pulls: PullService,
        registries: Mapping[str, Registry],
        metrics: Metrics,
        *,
        cache: DiskHealth,
        door: Authenticator | None,
        tenants: TokenService | None,
    ) -> None:
        """*tenants*: None where no upstream decides itself who may pull from it."""
        self._route = lru_cache(_ROUTES)(partial(parse_route, upstreams=upstreams))
        self._registries = registries
        self._metrics = metrics
        self._cache = cache
        self._door = door
        self._record = AccessLog(metrics)
        self._pulls = pulls
        self._tenants = tenants
        self._manifests = Manifests(self._record)
        self._blobs = Blobs(self._record)
        self._listings = Listings(self._record)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers a request. Raises nothing but cancellation, which means that the client left."""
        started = time.perf_counter()
        route: Route | None = None
        caller = ANONYMOUS_CALLER
        try:
            check_framing(request)
            await taken(request, most=_UNTAKEN)
            if self._door is not None:  # before it is known whether there is such a path
                caller = await self._door.admit(request)
            _check_method(request)
            route = self._route(request.raw_path)
            if self._door is not None:  # before anything is looked up
                self._door.check(caller, route)
            return await self._answer(request, route, caller, started)
        except MirrorError as failure:
            return self._failed(request, route, caller, failure, started)
        except ClientGone:
            return sent(keep_alive=False)
        except Exception as error:
            log.exception("request_crashed", target=shown(request.raw_path, LONGEST_TARGET))
            crash = MirrorError("the mirror failed; its log says more", error=type(error).__name__)
            return self._failed(request, route, caller, crash, started)

    async def _answer(self, request: web.BaseRequest, route: Route, caller: Caller, started: float) -> Sent:
        match route:
            case ManifestRoute() | BlobRoute() | TagsRoute() | ReferrersRoute():
                if self._tenants is None or not self._tenants.concern(route):
                    return await self._content(request, route, self._pulls, caller, started)
                async with self._tenants.admitted(request, route, self._pulls, caller) as (pulls, tenant):
                    return await self._content(request, route, pulls, tenant, started)
            case Api():
                if self._tenants is not None:
                    self._tenants.check_api(request)
                self._record.count("api", "answered")
                headers, body = api_answer()
                return answer(request, render(200, headers), body)
            case TokenRoute():
                return await self._token(request, route)
            case Probe():
                return self._probe(request, route)
            case _:
                assert_never(route)

    async def _content(
        self, request: web.BaseRequest, route: Pulling, pulls: PullService, caller: Caller, started: float
    ) -> Sent:
        match route:
            case ManifestRoute():
                return await self._manifests.answer(request, route, pulls, caller, started)
            case BlobRoute():
                return await self._blobs.answer(request, route, pulls, caller, started)
            case _:
                return await self._listings.answer(request, route, pulls, started)

    async def _token(self, request: web.BaseRequest, route: TokenRoute) -> Sent:
        if self._tenants is None:
            raise RouteUnknown("this mirror gives no tokens: it wants none")
        body = await self._tenants.token(request, route)
        self._record.count("token", "answered")
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ]
        return answer(request, render(200, headers), body)

    def _failed(
        self, request: web.BaseRequest, route: Route | None, caller: Caller, failure: MirrorError, started: float
    ) -> Sent:
        asked = getattr(route, "asked", None)
        failure = for_client(failure, by_path=asked is not None and asked.by_path)
        self._record.failed(request, caller, failure, started)
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
                media_type, body = "application/json", json.dumps(self._readiness()).encode()
            case "metrics":
                media_type, body = _METRICS_TYPE, self._metrics.exposition()
            case _:
                assert_never(probe.name)
        headers: Headers = [("Content-Type", media_type), ("Content-Length", str(len(body)))]
        return answer(request, render(200, headers), body)

    def _readiness(self) -> dict[str, object]:
        """Ready with any upstream down, as what is cached is served, and with a failing cache: pulls pass through."""
        upstreams = {name: _state(registry.is_down) for name, registry in self._registries.items()}
        endpoints = {
            name: {label: _state(is_down) for label, is_down in registry.endpoints.items()}
            for name, registry in self._registries.items()
            if len(registry.endpoints) > 1
        }
        found: dict[str, object] = {
            "status": "ready",
            "version": _VERSION,
            "cache": str(self._cache),
            "upstreams": upstreams,
        }
        return found | {"endpoints": endpoints} if endpoints else found


def _state(is_down: bool) -> str:
    return "down" if is_down else "up"


def _check_method(request: web.BaseRequest) -> None:
    if request.method not in {"GET", "HEAD"}:
        method = request.method[:16]
        raise MethodUnsupported(
            f"{method} is not for a mirror: it is read-only; push to the upstream registry itself", method=method
        )
