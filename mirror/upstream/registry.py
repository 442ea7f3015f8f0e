"""One upstream registry: manifests, blob sizes and lists, by repository (distribution-spec 1.1, the client's side)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

import aiohttp

from mirror.config import TimeoutSettings
from mirror.errors import (
    BlobUnknown,
    ContentUnknown,
    DigestInvalid,
    ManifestUnknown,
    MirrorError,
    RepositoryUnknown,
    UpstreamMalformed,
)
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest, Verifier
from mirror.oci.links import next_page
from mirror.oci.manifest import ACCEPT, LARGEST, OCI_INDEX, Manifest, ManifestHead, is_manifest, parse_media_type
from mirror.oci.names import Reference, Tag
from mirror.origin import ClientLogin, PullContext
from mirror.primitives.fair_semaphore import FairSemaphore
from mirror.upstream.endpoint import Endpoint
from mirror.upstream.endpoints import Endpoints
from mirror.upstream.pull_quota import PullQuota
from mirror.upstream.registry_origin import RegistryOrigin, content_length
from mirror.upstream.session import content_of

_NO_HEAD = frozenset({400, 403, 405, 501})  # answers of storages to HEAD of a URL that is signed for GET
_MAX_PAGE_BYTES = 16 * 2**20
Pairs = tuple[tuple[str, str], ...]
"""A query's keys and values, in order."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list as the upstream sent it.

    Attributes:
        following: the query of the next page; None after the last.
        filtered: whether the upstream filtered by artifact type, as requested (OCI-Filters-Applied).
    """

    body: bytes
    media_type: str
    following: Pairs | None
    filtered: bool


class Registry:
    """One upstream, through the first of its endpoints that answers.

    Every method takes the context of the pull. With a client's login the upstream receives that login, and refuses
    with Denied, so that no stored answer stands in; otherwise it receives the mirror's own credentials.

    Attributes:
        name: the upstream's canonical name.
        quota: the pull quota that the upstream announced, and so how long its tags stay fresh.
        origin: the upstream as an origin of blobs.
        is_down: whether every endpoint's circuit breaker is open. Read with every hit, so a plain attribute.
    """

    def __init__(
        self,
        name: str,
        endpoints: Sequence[Endpoint],
        quota: PullQuota,
        slots: FairSemaphore,
        *,
        timeouts: TimeoutSettings,
        metrics: Metrics,
    ) -> None:
        self.name = name
        self.quota = quota
        self.is_down = False
        self._lifetimes = AsyncExitStack()
        self._all = endpoints
        self._endpoints = Endpoints(endpoints, first_byte=timeouts.first_byte)
        self._first_byte = timeouts.first_byte
        self._metrics = metrics
        self.origin = RegistryOrigin(
            name,
            self._endpoints,
            slots,
            first_byte=timeouts.first_byte,
            silence=timeouts.silence,
            metrics=metrics,
        )

    async def __aenter__(self) -> Self:
        for endpoint in self._all:
            endpoint.on_change(self._update_state)
            await self._lifetimes.enter_async_context(endpoint)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.quota.forget()
        await self._lifetimes.aclose()

    def _update_state(self) -> None:
        self.is_down = self._endpoints.is_down

    @property
    def endpoints(self) -> dict[str, bool]:
        """Whether each endpoint is down, by host, port and path."""
        return self._endpoints.states

    async def require_accepted_login(self, login: ClientLogin | None) -> None:
        """Require that the upstream accepts the client's login, or (None) the mirror's own credentials.

        Raises:
            Denied: if it refuses the client's login.
            UpstreamError: if it refuses the mirror's own credentials, or cannot be asked.
        """
        await self._endpoints.first(lambda endpoint: endpoint.require_accepted_login(login), login)

    async def check_each(self) -> dict[str, MirrorError | None]:
        """Check every endpoint with the mirror's own credentials, concurrently.

        Returns:
            The failure, or None, by the endpoint's label.
        """

        async def check(endpoint: Endpoint) -> MirrorError | None:
            try:
                async with endpoint.deadline(self._first_byte):
                    await endpoint.require_accepted_login()
            except MirrorError as failure:
                return failure
            return None

        failures = await asyncio.gather(*map(check, self._all))
        return {endpoint.label: failure for endpoint, failure in zip(self._all, failures, strict=True)}

    async def resolve(self, context: PullContext, reference: Reference) -> ManifestHead | None:
        """Resolve *reference* by HEAD; None if the upstream's answer does not state the digest.

        Raises:
            ManifestUnknown, Denied, UpstreamError: if the upstream lacks it, refuses the client's login, or fails.
        """
        return await self._endpoints.first(partial(self._resolve, context, reference), context.login)

    async def _resolve(self, context: PullContext, reference: Reference, endpoint: Endpoint) -> ManifestHead | None:
        name = context.repository.name
        async with endpoint.request(
            "HEAD", f"{name}/manifests/{reference.text}", name, {"Accept": ACCEPT}, login=context.login, is_pull=True
        ) as response:
            self._note_quota(response)
            if response.status in _NO_HEAD:
                return None
            endpoint.require_success(response, ManifestUnknown, f"{name}:{reference.text}", context.login)
            digest = _announced(response)
            media_type = parse_media_type(response.headers.get("Content-Type"))
            is_stated = digest is not None and (isinstance(reference, Tag) or digest == reference)
            if digest is None or not is_stated:
                return None
            return ManifestHead(digest, media_type, content_length(response))

    async def manifest(self, context: PullContext, reference: Reference) -> Manifest:
        """Fetch the manifest, verified against the digest it was requested by, or else announced with.

        Raises:
            ManifestUnknown, Denied, UpstreamError: if the upstream lacks it, refuses the client's login, or fails.
        """
        return await self._endpoints.first(partial(self._manifest, context, reference), context.login)

    async def _manifest(self, context: PullContext, reference: Reference, endpoint: Endpoint) -> Manifest:
        name = context.repository.name
        async with endpoint.request(
            "GET", f"{name}/manifests/{reference.text}", name, {"Accept": ACCEPT}, login=context.login, is_pull=True
        ) as response:
            self._note_quota(response)
            endpoint.require_success(response, ManifestUnknown, f"{name}:{reference.text}", context.login)
            body = await content_of(endpoint.name, response, LARGEST)
            self._metrics.upstream_bytes.inc(len(body))
            media_type = response.headers.get("Content-Type")
            announced = _announced(response)
        if not (announced or isinstance(reference, Digest) or is_manifest(body)):
            raise UpstreamMalformed(
                f"{endpoint.name} sent {media_type or 'content without a type'} that is not a manifest for "
                f"{name}:{reference.text}",
                upstream=self.name,
            )
        expected = reference if isinstance(reference, Digest) else announced
        if expected is None:
            expected = Digest.of(body)
        verifier = Verifier(expected)
        verifier.feed([body])
        verifier.finish(None)
        return Manifest.read(expected, body, media_type)

    def _note_quota(self, response: aiohttp.ClientResponse) -> None:
        if "RateLimit-Remaining" in response.headers:
            self.quota.update(response.headers)

    async def blob_size(self, context: PullContext, digest: Digest) -> int | None:
        """Return the bytes of a blob; None if the upstream has it, but does not state its size.

        If HEAD proves nothing or states no size, the head of a GET does: it takes no slot, as no blob is fetched.

        Raises:
            BlobUnknown, Denied, UpstreamError: if the upstream lacks it, refuses the client's login, or fails.
        """
        return await self._endpoints.first(partial(self._blob_size, context, digest), context.login)

    async def _blob_size(self, context: PullContext, digest: Digest, endpoint: Endpoint) -> int | None:
        name = context.repository.name
        async with endpoint.request("HEAD", f"{name}/blobs/{digest}", name, {}, login=context.login) as response:
            if response.status not in _NO_HEAD:
                endpoint.require_success(response, BlobUnknown, f"{name}@{digest}", context.login)
                if (size := content_length(response)) is not None:
                    return size
        async with endpoint.request("GET", f"{name}/blobs/{digest}", name, {}, login=context.login) as response:
            endpoint.require_success(response, BlobUnknown, f"{name}@{digest}", context.login)
            return content_length(response)

    async def tags(self, context: PullContext, query: Pairs) -> Page:
        """Fetch a page of the repository's tags.

        Raises:
            RepositoryUnknown, Denied, UpstreamError: if the upstream lacks it, refuses the client's login, or fails.
        """
        path = f"{context.repository.name}/tags/list"
        fetch = partial(self._page, path, context, query, "application/json", RepositoryUnknown)
        return await self._endpoints.first(fetch, context.login)

    async def referrers(self, context: PullContext, digest: Digest, query: Pairs) -> Page:
        """Fetch a page of the manifests that refer to *digest*.

        Raises:
            ManifestUnknown: if the upstream has no such list; clients then try the tag `<algorithm>-<hex>`.
            Denied, UpstreamError: if the upstream refuses the client's login, or fails.
        """
        path = f"{context.repository.name}/referrers/{digest}"
        fetch = partial(self._page, path, context, query, OCI_INDEX, ManifestUnknown)
        return await self._endpoints.first(fetch, context.login)

    async def _page(
        self,
        path: str,
        context: PullContext,
        query: Pairs,
        media_type: str,
        unknown: type[ContentUnknown],
        endpoint: Endpoint,
    ) -> Page:
        target = f"{path}?{urlencode(query)}" if query else path
        async with endpoint.request(
            "GET", target, context.repository.name, {"Accept": media_type}, login=context.login
        ) as response:
            endpoint.require_success(response, unknown, path, context.login)
            body = await content_of(endpoint.name, response, _MAX_PAGE_BYTES)
            if not body.lstrip().startswith(b"{"):
                raise UpstreamMalformed(f"{endpoint.name} sent no JSON list for {path}", upstream=self.name)
            return Page(
                body,
                parse_media_type(response.headers.get("Content-Type")) or media_type,
                next_page(response.headers.get("Link")),
                "artifactType" in response.headers.get("OCI-Filters-Applied", ""),
            )


def _announced(response: aiohttp.ClientResponse) -> Digest | None:
    try:
        return Digest.parse(response.headers.get("Docker-Content-Digest", ""))
    except DigestInvalid:
        return None
