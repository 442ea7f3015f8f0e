"""Manifest requests: GET and HEAD by tag or digest."""

from __future__ import annotations

from aiohttp import web

from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest
from mirror.oci.routes import ManifestRoute
from mirror.origin import PullContext
from mirror.primitives.lru import LruCache
from mirror.pull.results import CacheOutcome, ManifestResult
from mirror.pull.service import PullService
from mirror.server.access_log import AccessLog
from mirror.server.response import WrittenResponse, answer, is_known, manifest_headers, not_modified, render

_HEADS = 4096


class Manifests:
    """`/v2/<name>/manifests/<reference>`."""

    def __init__(self, pulls: PullService, record: AccessLog) -> None:
        self._pulls = pulls
        self._record = record
        self._heads = LruCache[tuple[Digest, str | None], bytes](_HEADS)  # of hits, by digest and ns

    async def answer(
        self, request: web.BaseRequest, route: ManifestRoute, context: PullContext, started: float
    ) -> WrittenResponse:
        reference = route.reference
        head_only = request.method == "HEAD"
        manifest = self._pulls.manifest_nowait(context, reference)
        if manifest is not None:
            digest, outcome, head = manifest.head.digest, "hit", self._head_of_hit(route, manifest)
        else:
            pull = await self._pulls.manifest(context, reference, head_only=head_only)
            manifest, digest, outcome = pull.manifest, pull.head.digest, pull.outcome.value
            head = render(200, manifest_headers(route.requested, pull))
        body = b"" if manifest is None or head_only else manifest.body
        if "If-None-Match" in request.headers and is_known(request.headers.getall("If-None-Match"), digest):
            head, body = not_modified(head), b""
        self._record.first_byte(started, route.requested.repository.upstream)
        done = answer(request, head, body)
        self._record.served(
            request, context.caller, "manifest", route.requested, reference.text, digest, outcome, len(body), started
        )
        return done

    def _head_of_hit(self, route: ManifestRoute, manifest: Manifest) -> bytes:
        key = (manifest.head.digest, route.requested.ns)
        head = self._heads.get(key)
        if head is None:
            pull = ManifestResult(manifest.head, manifest, CacheOutcome.HIT)
            head = render(200, manifest_headers(route.requested, pull))
            self._heads.set(key, head)
        return head
