"""An endpoint: one address at which an upstream is to be had, with its own authorisation, breaker and throttle."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from copy import copy
from types import TracebackType
from typing import Self

import aiohttp

from mirror.errors import (
    ContentUnknown,
    RedirectTargetUnavailable,
    RepositoryUnknown,
    UpstreamRefused,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from mirror.observability.metrics import Metrics
from mirror.oci.authorization import Login
from mirror.upstream.breaker import CircuitBreaker
from mirror.upstream.credentials.authorizer import Authorizer
from mirror.upstream.rate_limit import RateLimit, retry_after
from mirror.upstream.session import Session, origin_of

_TRIES = 2
_TRY_AGAIN_WITHIN = (0.05, 0.25)  # seconds, at random: a blip is over, and not everybody comes back at once
_TRANSIENT = frozenset({500, 502, 503, 504})
_LONGEST_TOLD = 60  # seconds of a Retry-After that clients hear: the mirror itself asks again by then
_DOWN = frozenset({502, 503, 504})


class Endpoint:
    """The way to one address.

    Attributes:
        upstream: the name of the upstream that it is an address of.
        label: host, port and path, to tell it from the upstream's other ones.
        name: what messages call it.
    """

    def __init__(
        self, upstream: str, url: str, session: Session, authorizer: Authorizer, metrics: Metrics, *, is_only: bool
    ) -> None:
        self.upstream = upstream
        self.label = url.partition("://")[2]
        self.name = upstream if is_only else f"{upstream} at {self.label}"
        self._url = url
        self._session = session
        self._authorizer = authorizer
        self._breaker = CircuitBreaker(self.name)
        self._throttle = RateLimit(self.name, upstream)
        metrics.upstream_up.labels(upstream, self.label).set_function(lambda: not self.is_down)

    async def __aenter__(self) -> Self:
        await self._authorizer.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._authorizer.__aexit__(kind, error, trace)

    def on_behalf_of(self, login: Login | None) -> Endpoint:
        """The same address in a client's name, with a pull limit of its own; see Registry."""
        own = copy(self)
        own._authorizer = self._authorizer.on_behalf_of(login)  # noqa: SLF001 - of its own kind
        own._throttle = RateLimit(self.name, self.upstream)  # noqa: SLF001
        return own

    @property
    def is_down(self) -> bool:
        """Whether the last requests failed, so that it can't be counted on."""
        return self._breaker.is_open

    @property
    def may_be_asked(self) -> bool:
        """Whether it is up, or it is time to try whether it is."""
        return self._breaker.admits

    @asynccontextmanager
    async def limited(self, seconds: float) -> AsyncIterator[None]:
        """Ends after so much time, redirects, tokens and second tries included.

        Raises:
            UpstreamTimeout
        """
        since = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            if not self._session.heard(self._url, since=since):  # or it was a storage, or a token service
                self._breaker.failed()
            raise UpstreamTimeout(
                f"{self.name} sent nothing for {seconds:.3g} s", upstream=self.upstream, retry_after=5
            ) from error

    @asynccontextmanager
    async def ask(
        self, method: str, path: str, repository: str, headers: Mapping[str, str], *, is_pull: bool = False
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a request, with authorisation and a second try; its status is for the caller to check.

        Args:
            path: below /v2/, with its query.
            is_pull: whether upstreams count it against a pull limit. It is not sent while that is reached.

        Raises:
            UpstreamError: there is none.
        """
        if is_pull:
            self._throttle.require_allowed()
        self._breaker.require_closed()
        async with AsyncExitStack() as exits:
            yield await self._answer(exits, method, f"{self._url}/v2/{path}", repository, headers)

    async def check_login(self) -> bool:
        """Asks for nothing but to be let in (distribution-spec, "Determining Support"), and is.

        Raises:
            UpstreamError
        """
        async with self.ask("GET", "", "", {}) as response:
            self.check(response, RepositoryUnknown, "its API")
            return True

    async def _answer(
        self, exits: AsyncExitStack, method: str, url: str, repository: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        for left in reversed(range(_TRIES)):
            try:
                response = await self._authorized(exits, method, url, repository, headers)
            except UpstreamUnavailable as error:
                if not isinstance(error, RedirectTargetUnavailable):
                    self._breaker.failed()
                if not left or self._breaker.is_open:
                    raise
            else:
                if origin_of(str(response.url)) == origin_of(self._url):
                    self._note(response, last=not left)
                later = retry_after(response.headers.get("Retry-After"))  # no second try is that late
                if response.status not in _TRANSIENT or not left or later or self._breaker.is_open:
                    return response
                response.release()
            await asyncio.sleep(random.uniform(*_TRY_AGAIN_WITHIN))  # noqa: S311 - jitter
        raise AssertionError("the last try returns or raises")

    def _note(self, response: aiohttp.ClientResponse, *, last: bool) -> None:
        """Tells the breaker. A 500 may be about one image only, and counts once a request, not once a try."""
        status = response.status
        if status < 500 or status == 501:
            self._breaker.succeeded()
        elif status == 503:
            self._breaker.failed(pause=retry_after(response.headers.get("Retry-After")))
        elif status in _DOWN or last:
            self._breaker.failed()

    async def _authorized(
        self, exits: AsyncExitStack, method: str, url: str, repository: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        async def send(authorization: str | None) -> aiohttp.ClientResponse:
            own = {} if authorization is None else {"Authorization": authorization}
            return await exits.enter_async_context(self._session.send(method, url, {**headers, **own}))

        return await self._authorizer.authorized(send, repository)

    def check(self, response: aiohttp.ClientResponse, unknown: type[ContentUnknown], what: str) -> None:
        """Raises what a status other than success means.

        Args:
            unknown: what 404 means.
        """
        status = response.status
        if status in {200, 206}:
            return
        if status == 404:
            raise unknown(f"{self.name} does not have {what}", upstream=self.upstream)
        if status == 429:
            seconds = retry_after(response.headers.get("Retry-After"))
            self._throttle.record_429(seconds)
            raise UpstreamThrottled(
                f"{self.name}'s pull limit is reached (429 for {what}): wait, or set username and password_file in "
                f'[upstreams."{self.upstream}"]',
                retry_after=seconds,
                upstream=self.upstream,
            )
        if status in {401, 403}:
            raise UpstreamRefused(
                f"{self.name} refuses {what} ({status}): it does not exist, or the login does not reach it: "
                f"{self._authorizer.fix}",
                upstream=self.upstream,
                status=status,
            )
        if status >= 500:
            seconds = retry_after(response.headers.get("Retry-After")) or 5
            raise UpstreamUnavailable(
                f"{self.name} answered {status} for {what}",
                retry_after=min(seconds, _LONGEST_TOLD),
                upstream=self.upstream,
            )
        raise UpstreamUnavailable(
            f"{self.name} answered {status} for {what}, which is not understood here", upstream=self.upstream
        )
