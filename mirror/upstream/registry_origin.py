"""The upstream registry as an origin of blobs: slots, ranges, and endpoints that broke off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import aiohttp

from mirror.errors import BlobUnknown, IntegrityError, UpstreamDisconnected, UpstreamMalformed, UpstreamUnavailable
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.oci.ranges import ContentRange, Span
from mirror.origin import Origin, PullContext
from mirror.primitives.fair_semaphore import FairSemaphore
from mirror.primitives.lru import LruCache
from mirror.upstream.body import BlobBody
from mirror.upstream.endpoint import Endpoint
from mirror.upstream.endpoints import Endpoints

_CLIENT_WAIT = 0.25  # of the time for a first byte, which comes on top: how long a waiting client waits for a slot
_MAX_BLAMED = 1024  # digests whose failed endpoints are remembered


class RegistryOrigin:
    """Fetches blobs from an upstream's endpoints, a limited number at a time.

    A download waits for a slot as long as it takes. `urgent` is the origin for a client that
    waits for the stream itself: it uses at most half of the slots, because clients set the pace, and gives up soon.
    """

    def __init__(
        self,
        name: str,
        endpoints: Endpoints,
        slots: FairSemaphore,
        *,
        first_byte: float,
        silence: float,
        metrics: Metrics,
    ) -> None:
        """*first_byte*, *silence*: seconds until the first byte, and between two bytes."""
        self.name = name
        self._endpoints = endpoints
        self._slots = slots
        self._urgent_slots = FairSemaphore(max(1, slots.capacity // 2))
        self._blamed = LruCache[Digest, tuple[str, ...]](_MAX_BLAMED)  # labels of endpoints, the latest failure last
        self._first_byte = first_byte
        self._silence = silence
        self._metrics = metrics
        metrics.upstream_blobs.labels(name, "fetching").set_function(lambda: slots.held)
        urgent = self._urgent_slots
        metrics.upstream_blobs.labels(name, "waiting").set_function(lambda: slots.waiting + urgent.waiting)

    @property
    def urgent(self) -> Origin:
        """The same origin for a client that waits for the stream."""
        return _UrgentOrigin(self)

    @asynccontextmanager
    async def open(
        self, context: PullContext, digest: Digest, span: Span | None, *, is_urgent: bool = False
    ) -> AsyncIterator[BlobBody]:
        """Open the blob; see `mirror.origin.Origin`.

        An endpoint whose stream breaks off or turns out to be wrong is tried last the next time.
        """
        async with AsyncExitStack() as exits:
            if self._endpoints.may_be_asked:  # otherwise the answer takes no time, and needs no slot
                await self._acquire_slot(exits, context, is_urgent=is_urgent)
            blamed = self._blamed.get(digest) or ()
            body, endpoint = await self._endpoints.first(
                partial(self._begin, exits, context, digest, span), context.login, last=blamed
            )
            try:
                yield body
            except (UpstreamDisconnected, IntegrityError) as error:
                if span is None or isinstance(error, UpstreamDisconnected):  # a part's bytes are not all its own
                    self._blamed.set(digest, (*(one for one in blamed if one != endpoint.label), endpoint.label))
                raise

    async def _acquire_slot(self, exits: AsyncExitStack, context: PullContext, *, is_urgent: bool) -> None:
        repository = context.repository.name
        try:
            async with asyncio.timeout(self._first_byte * _CLIENT_WAIT if is_urgent else None):
                if is_urgent:
                    await exits.enter_async_context(self._urgent_slots.acquire(repository))
                await exits.enter_async_context(self._slots.acquire(repository))
        except TimeoutError as error:
            raise UpstreamUnavailable(
                f"{self._slots.held} blobs are being fetched from {self.name} already: pull again, or set connections "
                f'above {self._slots.capacity} in [upstreams."{self.name}"]',
                retry_after=5,
                upstream=self.name,
            ) from error

    async def _begin(
        self, exits: AsyncExitStack, context: PullContext, digest: Digest, span: Span | None, endpoint: Endpoint
    ) -> tuple[BlobBody, Endpoint]:
        """Return a body after its first bytes are received; *exits* closes it."""
        async with AsyncExitStack() as attempts:
            body = None if span is None else await self._request(attempts, context, digest, span, endpoint)
            if body is None:  # no range is wanted, or the endpoint's answer is not that range
                body = await self._request(attempts, context, digest, None, endpoint)
                assert body is not None, "only a range can be misunderstood"  # noqa: S101
            await body.begin()
            await exits.enter_async_context(attempts.pop_all())
            return body, endpoint

    async def _request(
        self, exits: AsyncExitStack, context: PullContext, digest: Digest, span: Span | None, endpoint: Endpoint
    ) -> BlobBody | None:
        headers = {} if span is None else {"Range": f"bytes={span.start}-{span.end - 1 if len(span) else ''}"}
        name = context.repository.name
        response = await exits.enter_async_context(
            endpoint.request("GET", f"{name}/blobs/{digest}", name, headers, login=context.login)
        )
        if span is not None and response.status == 416:
            return None
        endpoint.require_success(response, BlobUnknown, f"{name}@{digest}", context.login)
        return self._body(response, span, endpoint)

    def _body(self, response: aiohttp.ClientResponse, wanted: Span | None, endpoint: Endpoint) -> BlobBody | None:
        """Return the body of a blob; None if it is not the *wanted* part."""
        if response.headers.get("Content-Encoding", "identity").lower() not in {"identity", ""}:
            raise UpstreamMalformed(
                f"{endpoint.name} sent Content-Encoding {response.headers['Content-Encoding']!r} although only "
                f"identity was accepted",
                upstream=self.name,
            )
        body = partial(BlobBody, endpoint.name, response, silence=self._silence, metrics=self._metrics)
        if response.status != 206:
            return body(start=0, size=content_length(response))
        part = ContentRange.parse(response.headers.get("Content-Range"))
        if wanted is None:
            raise UpstreamMalformed(f"{endpoint.name} answered 206 to a request without a range", upstream=self.name)
        if part is None or part.span.start != wanted.start:
            return None
        return body(start=part.span.start, size=part.size)


class _UrgentOrigin:
    """A RegistryOrigin that waits for a slot only as long as a client does."""

    def __init__(self, origin: RegistryOrigin) -> None:
        self._origin = origin
        self.name = origin.name

    @asynccontextmanager
    async def open(self, context: PullContext, digest: Digest, span: Span | None) -> AsyncIterator[BlobBody]:
        async with self._origin.open(context, digest, span, is_urgent=True) as body:
            yield body


def content_length(response: aiohttp.ClientResponse) -> int | None:
    """Return the bytes of the content; None if they are unknown, or the header counts an encoding of the content."""
    if response.headers.get("Content-Encoding", "identity").lower() not in {"identity", ""}:
        return None
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None
