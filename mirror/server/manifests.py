"""Answers to manifest requests."""

from __future__ import annotations

from aiohttp import web

from mirror.oci.digest import Digest
from mirror.oci.routes import ManifestRoute
from mirror.pulls import ManifestPull, Outcome, Pulls
from mirror.recent import Recent
from mirror.server.answers import is_known, manifest_headers
from mirror.server.record import Record
from mirror.server.wire import Sent, answer, render

_HEADS = 4096


class Manifests:
    """`/v2/<name>/manifests/<reference>`."""

    def __init__(self, pulls: Pulls, record: Record) -> None:
        self._pulls = pulls
        self._record = record
        self._heads = Recent[tuple[Digest, str | None], bytes](_HEADS)  # of hits, by digest and ns

    async def answer(self, request: web.BaseRequest, route: ManifestRoute, started: float) -> Sent:
        head_only = request.method == "HEAD"
        pull = await self._pulls.manifest(route.asked.repository, route.reference, head_only=head_only)
        digest = pull.head.digest
        body = b"" if pull.manifest is None or head_only else pull.manifest.body
        known = "If-None-Match" in request.headers and is_known(request.headers.getall("If-None-Match"), digest)
        status, body = (304, b"") if known else (200, body)
        head = self._head(route, pull) if status == 200 else self._rendered(route, pull, 304)
        self._record.first_byte(started)
        sent = answer(request, status, head, body)
        self._record.served(
            request, "manifest", route.asked, str(route.reference), digest, pull.outcome.value, len(body), started
        )
        return sent

    def _head(self, route: ManifestRoute, pull: ManifestPull) -> bytes:
        if pull.outcome is not Outcome.HIT:
            return self._rendered(route, pull, 200)
        key = (pull.head.digest, route.asked.ns)
        head = self._heads.get(key)
        if head is None:
            head = self._rendered(route, pull, 200)
            self._heads.keep(key, head)
        return head

    def _rendered(self, route: ManifestRoute, pull: ManifestPull, status: int) -> bytes:
        return render(status, manifest_headers(route.asked, pull.head, pull))
