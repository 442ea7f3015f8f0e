"""One upstream registry: manifests, blobs and lists, by repository (distribution-spec 1.1, the client's side)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
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
    ElsewhereUnavailable,
    ManifestUnknown,
    RepositoryUnknown,
    UpstreamCorrupt,
    UpstreamRefused,
    UpstreamSilent,
    UpstreamThrottled,
    UpstreamUnavailable,
)
from mirror.metrics import Metrics
from mirror.oci.challenge import parse_challenges
from mirror.oci.digest import Digest, Verifier
from mirror.oci.links import next_page
from mirror.oci.manifest import ACCEPT, LARGEST, OCI_INDEX, Manifest, ManifestHead, is_manifest, parse_media_type
from mirror.oci.names import Reference, Tag
from mirror.oci.ranges import ContentRange, Span
from mirror.upstream.authorizer import Authorizer
from mirror.upstream.body import Body
from mirror.upstream.breaker import Breaker
from mirror.upstream.session import Session, content_of, origin_of
from mirror.upstream.throttle import Throttle, retry_after

_TRIES = 2
_TRY_AGAIN_WITHIN = (0.05, 0.25)  # seconds, at random: a blip is over, and not everybody comes back at once
_TRANSIENT = frozenset({500, 502, 503, 504})
_DOWN = frozenset({502, 503, 504})
_NO_HEAD = frozenset({400, 403, 405, 501})  # what storages answer to a HEAD of an address that is signed for GET
_LARGEST_PAGE = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Page:
    """A list as upstream sent it, with the query of the next page (None after the last)."""

    body: bytes
    media_type: str
    following: tuple[tuple[str, str], ...] | None
    filtered: bool  # by artifact type, as asked (OCI-Filters-Applied)


class Registry:
    """The way to one upstream."""

    def __init__(
        self,
        name: str,
        url: str,
        session: Session,
        authorizer: Authorizer,
        *,
        timeouts: TimeoutSettings,
        metrics: Metrics,
    ) -> None:
        self.name = name
        self._url = url
        self._session = session
        self._authorizer = authorizer
        self._timeouts = timeouts
        self._metrics = metrics
        self._breaker = Breaker(name)
        self._throttle = Throttle(name)

    async def __aenter__(self) -> Self:
        await self._authorizer.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._authorizer.__aexit__(kind, error, trace)

    @property
    def is_down(self) -> bool:
        """Whether the last requests failed, so that upstream can't be counted on."""
        return self._breaker.is_open

    async def resolve(self, repository: str, reference: Reference) -> ManifestHead | None:
        """What *reference* names upstream, by HEAD; None where upstream doesn't tell so.

        Raises:
            ManifestUnknown, UpstreamError
        """
        self._throttle.admit()
        path = f"{repository}/manifests/{reference}"
        async with self._ask("HEAD", path, repository, {"Accept": ACCEPT}) as response:
            if response.status in _NO_HEAD:
                return None
            self._check(response, ManifestUnknown, f"{repository}:{reference}")
            digest = _announced(response)
            media_type = parse_media_type(response.headers.get("Content-Type"))
            told = digest is not None and (isinstance(reference, Tag) or digest == reference)
            return None if digest is None or not told else ManifestHead(digest, media_type, _length(response))

    async def manifest(self, repository: str, reference: Reference) -> Manifest:
        """The manifest, verified against the digest it is asked by, or else announced with.

        Raises:
            ManifestUnknown, UpstreamError
        """
        self._throttle.admit()
        path = f"{repository}/manifests/{reference}"
        async with self._limited(), self._ask("GET", path, repository, {"Accept": ACCEPT}) as response:
            self._check(response, ManifestUnknown, f"{repository}:{reference}")
            body = await content_of(self.name, response, LARGEST)
            self._metrics.upstream_bytes.inc(len(body))
            media_type = response.headers.get("Content-Type")
            announced = _announced(response)
        if not (announced or isinstance(reference, Digest) or is_manifest(body)):
            raise UpstreamCorrupt(
                f"{self.name} sent {media_type or 'something'} that is no manifest for {repository}:{reference}",
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
        path = f"{repository}/blobs/{digest}"
        async with self._ask("HEAD", path, repository, {}) as response:
            if response.status not in _NO_HEAD:
                self._check(response, BlobUnknown, f"{repository}@{digest}")
                if (size := _length(response)) is not None:
                    return size
        async with self._ask("GET", path, repository, {}) as response:
            self._check(response, BlobUnknown, f"{repository}@{digest}")
            return _length(response)

    @asynccontextmanager
    async def blob(self, repository: str, digest: Digest, span: Span | None = None) -> AsyncIterator[Body]:
        """A blob as it comes, with its first bytes already here.

        Args:
            span: the part that is wanted. The body says where it really begins: upstream may send the whole blob.

        Raises:
            BlobUnknown, UpstreamError: also where upstream answers, but sends no byte.
        """
        async with AsyncExitStack() as exits:
            async with self._limited():
                body = None if span is None else await self._blob(exits, repository, digest, span)
                if body is None:  # no range was wanted, or upstream made nothing of it
                    body = await self._blob(exits, repository, digest, None)
                    assert body is not None, "only a range can be misunderstood"  # noqa: S101
                await body.begin()
            yield body

    async def _blob(self, exits: AsyncExitStack, repository: str, digest: Digest, span: Span | None) -> Body | None:
        headers = {} if span is None else {"Range": f"bytes={span.start}-{span.end - 1 if len(span) else ''}"}
        path = f"{repository}/blobs/{digest}"
        response = await exits.enter_async_context(self._ask("GET", path, repository, headers))
        if span is not None and response.status == 416:
            return None
        self._check(response, BlobUnknown, f"{repository}@{digest}")
        return self._body(response, span)

    def _body(self, response: aiohttp.ClientResponse, wanted: Span | None) -> Body | None:
        """The body of a blob; None where it is not the part that was *wanted*."""
        if response.headers.get("Content-Encoding", "identity").lower() not in {"identity", ""}:
            raise UpstreamCorrupt(
                f"{self.name} sent {response.headers['Content-Encoding']!r} though identity was asked",
                upstream=self.name,
            )
        body = partial(Body, self.name, response, silence=self._timeouts.silence, metrics=self._metrics)
        if response.status != 206:
            return body(start=0, size=_length(response))
        part = ContentRange.parse(response.headers.get("Content-Range"))
        if wanted is None:
            raise UpstreamCorrupt(f"{self.name} answered 206 where no range was asked", upstream=self.name)
        if part is None or part.span.start != wanted.start:
            return None
        return body(start=part.span.start, size=part.size)

    async def tags(self, repository: str, query: tuple[tuple[str, str], ...]) -> Page:
        """A page of the repository's tags.

        Raises:
            RepositoryUnknown, UpstreamError
        """
        return await self._page(f"{repository}/tags/list", repository, query, "application/json", RepositoryUnknown)

    async def referrers(self, repository: str, digest: Digest, query: tuple[tuple[str, str], ...]) -> Page:
        """A page of the manifests that refer to *digest*.

        Raises:
            ManifestUnknown: upstream has no such list; clients then try the tag `<algorithm>-<hex>`.
            UpstreamError
        """
        return await self._page(f"{repository}/referrers/{digest}", repository, query, OCI_INDEX, ManifestUnknown)

    async def _page(
        self,
        path: str,
        repository: str,
        query: tuple[tuple[str, str], ...],
        media_type: str,
        unknown: type[ContentUnknown],
    ) -> Page:
        target = f"{path}?{urlencode(query)}" if query else path
        async with self._limited(), self._ask("GET", target, repository, {"Accept": media_type}) as response:
            self._check(response, unknown, path)
            body = await content_of(self.name, response, _LARGEST_PAGE)
            if not body.lstrip().startswith(b"{"):
                raise UpstreamCorrupt(f"{self.name} sent something that is no list for {path}", upstream=self.name)
            return Page(
                body,
                parse_media_type(response.headers.get("Content-Type")) or media_type,
                next_page(response.headers.get("Link")),
                "artifactType" in response.headers.get("OCI-Filters-Applied", ""),
            )

    @asynccontextmanager
    async def _limited(self) -> AsyncIterator[None]:
        """Ends after the time for the first byte, redirects, tokens and second tries included.

        Raises:
            UpstreamSilent
        """
        since = time.monotonic()
        try:
            async with asyncio.timeout(self._timeouts.first_byte):
                yield
        except TimeoutError as error:
            if not self._session.heard(self._url, since=since):  # or it was a storage, or a token service
                self._breaker.failed()
            raise UpstreamSilent(
                f"{self.name} sent nothing for {self._timeouts.first_byte:g} s", upstream=self.name, retry_after=5
            ) from error

    @asynccontextmanager
    async def _ask(
        self, method: str, path: str, repository: str, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a request, with authorisation and a second try; its status is for the caller to check."""
        self._breaker.admit()
        async with AsyncExitStack() as exits:
            async with self._limited():
                response = await self._answer(exits, method, f"{self._url}/v2/{path}", repository, headers)
            yield response

    async def _answer(
        self, exits: AsyncExitStack, method: str, url: str, repository: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        for left in reversed(range(_TRIES)):
            try:
                response = await self._authorized(exits, method, url, repository, headers)
            except UpstreamUnavailable as error:
                if not isinstance(error, ElsewhereUnavailable):
                    self._breaker.failed()
                if not left or self._breaker.is_open:
                    raise
            else:
                if origin_of(str(response.url)) == origin_of(self._url):
                    self._note(response.status, last=not left)
                if response.status not in _TRANSIENT or not left:
                    return response
                response.release()
            await asyncio.sleep(random.uniform(*_TRY_AGAIN_WITHIN))  # noqa: S311 - jitter
        raise AssertionError("the last try returns or raises")

    def _note(self, status: int, *, last: bool) -> None:
        """Tells the breaker. A 500 may be about one image only, and counts once a request, not once a try."""
        if status < 500 or status == 501:
            self._breaker.succeeded()
        elif status in _DOWN or last:
            self._breaker.failed()

    async def _authorized(
        self, exits: AsyncExitStack, method: str, url: str, repository: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        async def send(authorization: str | None) -> aiohttp.ClientResponse:
            own = {} if authorization is None else {"Authorization": authorization}
            return await exits.enter_async_context(self._session.send(self.name, method, url, {**headers, **own}))

        authorization = await self._authorizer.header(repository)
        response = await send(authorization)
        if response.status == 401 and authorization is not None:
            # Asked again without anything: nvcr.io answers an expired token with a challenge that leads nowhere.
            await self._authorizer.forget(repository, authorization)
            response.release()
            response = await send(None)
        if response.status == 401:
            challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
            response.release()
            authorization = await self._authorizer.answer(challenges, repository)
            response = await send(authorization)
            if response.status == 401:
                await self._authorizer.forget(repository, authorization)
        return response

    def _check(self, response: aiohttp.ClientResponse, unknown: type[ContentUnknown], what: str) -> None:
        """Raises what a status other than success means."""
        status = response.status
        if status in {200, 206}:
            return
        if status == 404:
            raise unknown(f"{self.name} does not have {what}", upstream=self.name)
        if status == 429:
            seconds = retry_after(response.headers.get("Retry-After"))
            self._throttle.told(seconds)
            raise UpstreamThrottled(
                f"{self.name}'s pull limit is reached (429 for {what}): wait, or set username and password_file in "
                f'[upstreams."{self.name}"]',
                retry_after=seconds,
                upstream=self.name,
            )
        if status in {401, 403}:
            raise UpstreamRefused(
                f"{self.name} refuses {what} ({status}): it does not exist, or the mirror's credentials in "
                f'[upstreams."{self.name}"] (username, password_file) do not reach it',
                upstream=self.name,
                status=status,
            )
        if status >= 500:
            raise UpstreamUnavailable(f"{self.name} answered {status} for {what}", retry_after=5, upstream=self.name)
        raise UpstreamUnavailable(
            f"{self.name} answered {status} for {what}, which is not understood here", upstream=self.name
        )


def _announced(response: aiohttp.ClientResponse) -> Digest | None:
    try:
        return Digest.parse(response.headers.get("Docker-Content-Digest", ""))
    except DigestInvalid:
        return None


def _length(response: aiohttp.ClientResponse) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None
