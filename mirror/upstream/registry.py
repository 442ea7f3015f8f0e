"""One upstream registry: manifests, blobs and lists, by repository (distribution-spec 1.1, the client's side)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from copy import copy
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
    IntegrityError,
    ManifestUnknown,
    MirrorError,
    RepositoryUnknown,
    UpstreamDisconnected,
    UpstreamMalformed,
    UpstreamUnavailable,
)
from mirror.observability.metrics import Metrics
from mirror.oci.authorization import Login
from mirror.oci.digest import Digest, Verifier
from mirror.oci.links import next_page
from mirror.oci.manifest import ACCEPT, LARGEST, OCI_INDEX, Manifest, ManifestHead, is_manifest, parse_media_type
from mirror.oci.names import Reference, Tag
from mirror.oci.ranges import ContentRange, Span
from mirror.primitives.fair_semaphore import FairSemaphore
from mirror.primitives.lru import LruCache
from mirror.upstream.body import Body
from mirror.upstream.endpoint import Endpoint
from mirror.upstream.endpoints import Endpoints
from mirror.upstream.pull_quota import PullQuota
from mirror.upstream.session import content_of

_NO_HEAD = frozenset({400, 403, 405, 501})  # what storages answer to a HEAD of an address that is signed for GET
_LARGEST_PAGE = 16 * 2**20
_WAITING = 0.25  # of the time for a first byte, which it comes on top of
_MOST_BLAMED = 1024  # digests of which it is remembered which endpoints broke off, or sent wrong bytes


@dataclass(frozen=True, slots=True)
class Page:
    """A list as upstream sent it, with the query of the next page (None after the last)."""

    body: bytes
    media_type: str
    following: tuple[tuple[str, str], ...] | None
    filtered: bool  # by artifact type, as asked (OCI-Filters-Applied)


class Registry:
    """The way to one upstream, by whichever of its endpoints answers.

    Attributes:
        allowance: what upstream said of its pull limit, and so how long its tags hold.
    """

    def __init__(
        self,
        name: str,
        endpoints: Sequence[Endpoint],
        allowance: PullQuota,
        turns: FairSemaphore,
        *,
        timeouts: TimeoutSettings,
        metrics: Metrics,
    ) -> None:
        self.name = name
        self.allowance = allowance
        self._turns = turns
        self._passing = FairSemaphore(
            max(1, turns.most // 2)
        )  # clients set the pace of these: some turns are not for them
        self._blamed = LruCache[Digest, tuple[str, ...]](_MOST_BLAMED)  # labels of endpoints, the last one last
        self._lifetimes = AsyncExitStack()
        self._endpoints = endpoints
        self._first = endpoints[0]
        self._ways = Endpoints(endpoints, first_byte=timeouts.first_byte)
        self._first_byte = timeouts.first_byte
        self._silence = timeouts.silence
        self._metrics = metrics
        metrics.upstream_blobs.labels(name, "fetching").set_function(lambda: turns.taken)
        passing = self._passing
        metrics.upstream_blobs.labels(name, "waiting").set_function(lambda: turns.waiting + passing.waiting)

    async def __aenter__(self) -> Self:
        for endpoint in self._endpoints:
            await self._lifetimes.enter_async_context(endpoint)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.allowance.forget()
        await self._lifetimes.aclose()

    @property
    def is_down(self) -> bool:
        """Whether the last requests failed wherever they went, so that upstream can't be counted on."""
        return self._first.is_down and self._ways.is_down  # every hit asks, and the first one is mostly up

    @property
    def endpoints(self) -> dict[str, bool]:
        """Host and port (and path) of each endpoint, and whether it is down."""
        return self._ways.are_down

    def on_behalf_of(self, login: Login | None) -> Registry:
        """The same upstream, asked in a client's name: with its login, or with none, and never with the mirror's own.

        What is refused there is Denied, and no UpstreamRefused: nothing stored stands in for it.
        """
        own = copy(self)
        own._ways = self._ways.on_behalf_of(login)  # noqa: SLF001 - of its own kind
        return own

    async def check_login(self) -> None:
        """Asks upstream whether it knows whom the mirror asks as.

        Raises:
            UpstreamError; Denied in a client's name.
        """
        await self._ways.first(lambda endpoint: endpoint.check_login())

    async def check_each(self) -> dict[str, MirrorError | None]:
        """Asks each endpoint by itself, all at once, what `check_login` asks the first that answers.

        Returns:
            what failed, or None, by the endpoints' labels.
        """

        async def check(endpoint: Endpoint) -> MirrorError | None:
            try:
                async with endpoint.limited(self._first_byte):
                    await endpoint.check_login()
            except MirrorError as failure:
                return failure
            return None

        failures = await asyncio.gather(*map(check, self._endpoints))
        return {endpoint.label: failure for endpoint, failure in zip(self._endpoints, failures, strict=True)}

    async def resolve(self, repository: str, reference: Reference) -> ManifestHead | None:
        """What *reference* names upstream, by HEAD; None where upstream doesn't tell so.

        Raises:
            ManifestUnknown, UpstreamError
        """
        return await self._ways.first(partial(self._resolve, repository, reference))

    async def _resolve(self, repository: str, reference: Reference, endpoint: Endpoint) -> ManifestHead | None:
        path = f"{repository}/manifests/{reference}"
        async with endpoint.ask("HEAD", path, repository, {"Accept": ACCEPT}, is_pull=True) as response:
            self.allowance.update(response.headers)
            if response.status in _NO_HEAD:
                return None
            endpoint.check(response, ManifestUnknown, f"{repository}:{reference}")
            digest = _announced(response)
            media_type = parse_media_type(response.headers.get("Content-Type"))
            told = digest is not None and (isinstance(reference, Tag) or digest == reference)
            return None if digest is None or not told else ManifestHead(digest, media_type, _length(response))

    async def manifest(self, repository: str, reference: Reference) -> Manifest:
        """The manifest, verified against the digest it is asked by, or else announced with.

        Raises:
            ManifestUnknown, UpstreamError
        """
        return await self._ways.first(partial(self._manifest, repository, reference))

    async def _manifest(self, repository: str, reference: Reference, endpoint: Endpoint) -> Manifest:
        path = f"{repository}/manifests/{reference}"
        async with endpoint.ask("GET", path, repository, {"Accept": ACCEPT}, is_pull=True) as response:
            self.allowance.update(response.headers)
            endpoint.check(response, ManifestUnknown, f"{repository}:{reference}")
            body = await content_of(endpoint.name, response, LARGEST)
            self._metrics.upstream_bytes.inc(len(body))
            media_type = response.headers.get("Content-Type")
            announced = _announced(response)
        if not (announced or isinstance(reference, Digest) or is_manifest(body)):
            raise UpstreamMalformed(
                f"{endpoint.name} sent {media_type or 'something'} that is no manifest for {repository}:{reference}",
                upstream=self.name,
            )
        expected = reference if isinstance(reference, Digest) else announced
        if expected is None:
            expected = Digest.of(body)
        verifier = Verifier(expected)
        verifier.feed([body])
        verifier.finish(None)
        return Manifest.read(expected, body, media_type)

    async def blob_size(self, repository: str, digest: Digest) -> int | None:
        """Bytes of a blob, without downloading it; None where upstream has it but doesn't tell its size.

        Raises:
            BlobUnknown, UpstreamError
        """
        return await self._ways.first(partial(self._blob_size, repository, digest))

    async def _blob_size(self, repository: str, digest: Digest, endpoint: Endpoint) -> int | None:
        path = f"{repository}/blobs/{digest}"
        async with endpoint.ask("HEAD", path, repository, {}) as response:
            if response.status not in _NO_HEAD:
                endpoint.check(response, BlobUnknown, f"{repository}@{digest}")
                if (size := _length(response)) is not None:
                    return size
        async with endpoint.ask("GET", path, repository, {}) as response:
            endpoint.check(response, BlobUnknown, f"{repository}@{digest}")
            return _length(response)

    @asynccontextmanager
    async def blob(
        self, repository: str, digest: Digest, span: Span | None = None, *, is_awaited: bool = False
    ) -> AsyncIterator[Body]:
        """A blob as it comes, with its first bytes already here.

        If it breaks off, or turns out to be wrong while the context lasts, another endpoint is asked first next time.

        Args:
            span: the part that is wanted. The body says where it really begins: upstream may send the whole blob.
            is_awaited: whether a client waits for this very body, and so for no more than a while for its turn. A
                download waits as long as it takes.

        Raises:
            BlobUnknown, UpstreamError: also where upstream answers, but sends no byte.
        """
        async with AsyncExitStack() as exits:
            if self._ways.may_be_asked:  # or else the answer is there in no time, and nobody waits to hear it
                await self._take_turn(exits, repository, is_awaited=is_awaited)
            blamed = self._blamed.get(digest) or ()
            body, endpoint = await self._ways.first(partial(self._begun, exits, repository, digest, span), last=blamed)
            try:
                yield body
            except (UpstreamDisconnected, IntegrityError) as error:
                if span is None or isinstance(error, UpstreamDisconnected):  # of a part's bytes not all are its own
                    self._blamed.set(digest, (*(one for one in blamed if one != endpoint.label), endpoint.label))
                raise

    async def _take_turn(self, exits: AsyncExitStack, repository: str, *, is_awaited: bool) -> None:
        try:
            async with asyncio.timeout(self._first_byte * _WAITING if is_awaited else None):
                if is_awaited:
                    await exits.enter_async_context(self._passing.turn(repository))
                await exits.enter_async_context(self._turns.turn(repository))
        except TimeoutError as error:
            raise UpstreamUnavailable(
                f"{self._turns.taken} blobs are being fetched from {self.name} already: ask again, or set connections "
                f'above {self._turns.most} in [upstreams."{self.name}"]',
                retry_after=5,
                upstream=self.name,
            ) from error

    async def _begun(
        self, exits: AsyncExitStack, repository: str, digest: Digest, span: Span | None, endpoint: Endpoint
    ) -> tuple[Body, Endpoint]:
        """A body whose first bytes are here; *exits* ends it."""
        async with AsyncExitStack() as tries:
            body = None if span is None else await self._blob(tries, repository, digest, span, endpoint)
            if body is None:  # no range was wanted, or upstream made nothing of it
                body = await self._blob(tries, repository, digest, None, endpoint)
                assert body is not None, "only a range can be misunderstood"  # noqa: S101
            await body.begin()
            await exits.enter_async_context(tries.pop_all())
            return body, endpoint

    async def _blob(
        self, exits: AsyncExitStack, repository: str, digest: Digest, span: Span | None, endpoint: Endpoint
    ) -> Body | None:
        headers = {} if span is None else {"Range": f"bytes={span.start}-{span.end - 1 if len(span) else ''}"}
        path = f"{repository}/blobs/{digest}"
        response = await exits.enter_async_context(endpoint.ask("GET", path, repository, headers))
        if span is not None and response.status == 416:
            return None
        endpoint.check(response, BlobUnknown, f"{repository}@{digest}")
        return self._body(response, span, endpoint)

    def _body(self, response: aiohttp.ClientResponse, wanted: Span | None, endpoint: Endpoint) -> Body | None:
        """The body of a blob; None where it is not the part that was *wanted*."""
        if response.headers.get("Content-Encoding", "identity").lower() not in {"identity", ""}:
            raise UpstreamMalformed(
                f"{endpoint.name} sent {response.headers['Content-Encoding']!r} though identity was asked",
                upstream=self.name,
            )
        body = partial(Body, endpoint.name, response, silence=self._silence, metrics=self._metrics)
        if response.status != 206:
            return body(start=0, size=_length(response))
        part = ContentRange.parse(response.headers.get("Content-Range"))
        if wanted is None:
            raise UpstreamMalformed(f"{endpoint.name} answered 206 where no range was asked", upstream=self.name)
        if part is None or part.span.start != wanted.start:
            return None
        return body(start=part.span.start, size=part.size)

    async def tags(self, repository: str, query: tuple[tuple[str, str], ...]) -> Page:
        """A page of the repository's tags.

        Raises:
            RepositoryUnknown, UpstreamError
        """
        path = f"{repository}/tags/list"
        return await self._ways.first(
            partial(self._page, path, repository, query, "application/json", RepositoryUnknown)
        )

    async def referrers(self, repository: str, digest: Digest, query: tuple[tuple[str, str], ...]) -> Page:
        """A page of the manifests that refer to *digest*.

        Raises:
            ManifestUnknown: upstream has no such list; clients then try the tag `<algorithm>-<hex>`.
            UpstreamError
        """
        path = f"{repository}/referrers/{digest}"
        return await self._ways.first(partial(self._page, path, repository, query, OCI_INDEX, ManifestUnknown))

    async def _page(
        self,
        path: str,
        repository: str,
        query: tuple[tuple[str, str], ...],
        media_type: str,
        unknown: type[ContentUnknown],
        endpoint: Endpoint,
    ) -> Page:
        target = f"{path}?{urlencode(query)}" if query else path
        async with endpoint.ask("GET", target, repository, {"Accept": media_type}) as response:
            endpoint.check(response, unknown, path)
            body = await content_of(endpoint.name, response, _LARGEST_PAGE)
            if not body.lstrip().startswith(b"{"):
                raise UpstreamMalformed(
                    f"{endpoint.name} sent something that is no list for {path}", upstream=self.name
                )
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


def _length(response: aiohttp.ClientResponse) -> int | None:
    """Bytes of the content; None where it isn't told, or what is told is the length of an encoding of it."""
    if response.headers.get("Content-Encoding", "identity").lower() not in {"identity", ""}:
        return None
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None
