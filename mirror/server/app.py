"""The registry API: authenticates and routes each request, and turns each failure into an error response."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import assert_never

import structlog
from aiohttp import web

from mirror.auth.rules import ANONYMOUS_CALLER, Caller
from mirror.errors import MethodUnsupported, MirrorError, RouteUnknown
from mirror.observability.metrics import Metrics
from mirror.observability.version import VERSION
from mirror.oci.names import Upstreams
from mirror.oci.routes import (
    Api,
    BlobRoute,
    ManifestRoute,
    Probe,
    ReferrersRoute,
    RequestedRepository,
    Route,
    TagsRoute,
    TokenRoute,
    parse_route,
    shown,
)
from mirror.origin import PullContext
from mirror.pull.service import PullService
from mirror.server.access_log import LONGEST_TARGET, AccessLog
from mirror.server.auth import Authenticator
from mirror.server.blobs import Blobs
from mirror.server.framing import require_unambiguous_framing
from mirror.server.listings import Listings
from mirror.server.manifests import Manifests
from mirror.server.response import (
    ClientGone,
    Headers,
    WrittenResponse,
    answer,
    api_answer,
    drained,
    error_answer,
    for_client,
    render,
    written_response,
)
from mirror.server.token_service import ContentRoute, TokenService
from mirror.storage.protocols import Health
from mirror.upstream.registry import Registry

_MAX_ROUTES = 8192  # parsed request targets in memory
_HTTP_1_1 = (1, 1)
_MAX_UNREAD = 2**20  # bytes of responses that a client may leave unread before it gets another one
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
log = structlog.get_logger()


class App:
    """The request handler of the mirror's port."""

    def __init__(
        self,
        upstreams: Upstreams,
        pulls: PullService,
        registries: Mapping[str, Registry],
        metrics: Metrics,
        *,
        cache: Health,
        authenticator: Authenticator | None,
        tokens: TokenService | None,
    ) -> None:
        """*tokens*: None if no upstream authorizes the clients itself."""
        self._target = lru_cache(_MAX_ROUTES)(partial(_parse_target, upstreams))
        self._registries = registries
        self._metrics = metrics
        self._cache = cache
        self._authenticator = authenticator
        self._record = AccessLog(metrics, registries)
        self._tokens = tokens
        self._manifests = Manifests(pulls, self._record)
        self._blobs = Blobs(pulls, self._record)
        self._listings = Listings(pulls, self._record)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request. Raise nothing but CancelledError, which means that the client disconnected."""
        started = time.perf_counter()
        route: Route | None = None
        caller = ANONYMOUS_CALLER
        try:
            if request.version != _HTTP_1_1 or "Upgrade" in request.headers:
                require_unambiguous_framing(request)
            await drained(request, limit=_MAX_UNREAD)
            if self._authenticator is not None:  # before routing: the response must not reveal which paths exist
                caller = await self._authenticator.authenticate(request)
            _require_get_or_head(request)
            route, anonymous = self._target(request.raw_path)
            if self._authenticator is not None:  # before any lookup: the response must not reveal what is cached
                self._authenticator.require_allowed(caller, route)
            return await self._answer(request, route, caller, anonymous, started)
        except MirrorError as failure:
            return self._failed(request, route, caller, failure, started)
        except ClientGone:
            return written_response(keep_alive=False)
        except Exception as error:
            log.exception("request_crashed", target=shown(request.raw_path, LONGEST_TARGET))
            crash = MirrorError("the mirror failed; its log has the reason", error=type(error).__name__)
            return self._failed(request, route, caller, crash, started)

    async def _answer(
        self, request: web.BaseRequest, route: Route, caller: Caller, anonymous: PullContext | None, started: float
    ) -> WrittenResponse:
        match route:
            case ManifestRoute() | BlobRoute() | TagsRoute() | ReferrersRoute():
                if self._tokens is None or not self._tokens.concerns(route):
                    context = anonymous if caller is ANONYMOUS_CALLER else None
                    context = context or PullContext(caller, route.requested.repository)
                    return await self._content(request, route, context, started)
                async with self._tokens.authorized(request, route, caller) as context:
                    return await self._content(request, route, context, started)
            case Api():
                if self._tokens is not None:
                    self._tokens.require_token(request)
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
        self, request: web.BaseRequest, route: ContentRoute, context: PullContext, started: float
    ) -> WrittenResponse:
        match route:
            case ManifestRoute():
                return await self._manifests.answer(request, route, context, started)
            case BlobRoute():
                return await self._blobs.answer(request, route, context, started)
            case _:
                return await self._listings.answer(request, route, context, started)

    async def _token(self, request: web.BaseRequest, route: TokenRoute) -> WrittenResponse:
        if self._tokens is None:
            raise RouteUnknown("this mirror issues no tokens: pull without one")
        body = await self._tokens.token(request, route)
        self._record.count("token", "answered")
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ]
        return answer(request, render(200, headers), body)

    def _failed(
        self, request: web.BaseRequest, route: Route | None, caller: Caller, failure: MirrorError, started: float
    ) -> WrittenResponse:
        requested = _requested(route)
        failure = for_client(failure, by_path=requested is not None and requested.by_path)
        upstream = "" if requested is None else requested.repository.upstream
        self._record.failed(request, caller, failure, upstream, started)
        status, headers, body = error_answer(failure)
        try:
            return answer(request, render(status, headers), body)
        except ClientGone:
            return written_response(keep_alive=False)

    def _probe(self, request: web.BaseRequest, probe: Probe) -> WrittenResponse:
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
        """Return the body of /readyz. The mirror is ready even while upstreams are down or the cache fails."""
        upstreams = {name: _state(registry.is_down) for name, registry in self._registries.items()}
        endpoints = {
            name: {label: _state(is_down) for label, is_down in registry.endpoints.items()}
            for name, registry in self._registries.items()
            if len(registry.endpoints) > 1
        }
        found: dict[str, object] = {
            "status": "ready",
            "version": VERSION,
            "cache": str(self._cache),
            "upstreams": upstreams,
        }
        return found | {"endpoints": endpoints} if endpoints else found


def _parse_target(upstreams: Upstreams, target: str) -> tuple[Route, PullContext | None]:
    """Return the route of a request target, with the context of an anonymous pull, which is the same every time."""
    route = parse_route(target, upstreams)
    requested = _requested(route)
    return route, None if requested is None else PullContext(ANONYMOUS_CALLER, requested.repository)


def _requested(route: Route | None) -> RequestedRepository | None:
    """Return the repository that a route names; None for a probe, an API root or a token request."""
    match route:
        case ManifestRoute() | BlobRoute() | TagsRoute() | ReferrersRoute():
            return route.requested
        case _:
            return None


def _state(is_down: bool) -> str:
    return "down" if is_down else "up"


def _require_get_or_head(request: web.BaseRequest) -> None:
    if request.method not in {"GET", "HEAD"}:
        method = request.method[:16]
        raise MethodUnsupported(
            f"{method} is not supported: a mirror is read-only; push to the upstream registry itself", method=method
        )
