"""List requests: tags and referrers, page by page."""

from __future__ import annotations

from aiohttp import web

from mirror.oci.links import link_to
from mirror.oci.routes import ReferrersRoute, TagsRoute
from mirror.origin import PullContext
from mirror.pull.service import PullService
from mirror.server.access_log import AccessLog
from mirror.server.response import WrittenResponse, answer, cache_status, render, staleness


class Listings:
    """`/v2/<name>/tags/list` and `/v2/<name>/referrers/<digest>`."""

    def __init__(self, pulls: PullService, record: AccessLog) -> None:
        self._pulls = pulls
        self._record = record

    async def answer(
        self, request: web.BaseRequest, route: TagsRoute | ReferrersRoute, context: PullContext, started: float
    ) -> WrittenResponse:
        requested = route.requested
        if isinstance(route, TagsRoute):
            kind, path = "tags", f"{requested.path}/tags/list"
            pull = await self._pulls.lists.tags(context, route.query)
        else:
            kind, path = "referrers", f"{requested.path}/referrers/{route.digest}"
            pull = await self._pulls.lists.referrers(context, route.digest, route.query)
        page = pull.page
        headers = [
            ("Content-Type", page.media_type),
            ("Content-Length", str(len(page.body))),
            ("Docker-Distribution-Api-Version", "registry/2.0"),
            cache_status(pull.outcome),
            *staleness(pull.failure, pull.age),
        ]
        if page.following is not None:
            headers.append(("Link", link_to(path, page.following, requested.ns)))
        if page.filtered:
            headers.append(("OCI-Filters-Applied", "artifactType"))
        self._record.first_byte(started, route.requested.repository.upstream)
        self._record.count(kind, pull.outcome.value, requested.repository.upstream)
        return answer(request, render(200, headers), page.body)
