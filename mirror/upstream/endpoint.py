"""One endpoint: an address of an upstream, with its own authorization, circuit breaker and rate limits."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Self

import aiohttp

from mirror.errors import (
    ContentUnknown,
    RedirectTargetUnavailable,
    RepositoryUnknown,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from mirror.observability.metrics import Metrics
from mirror.origin import ClientLogin
from mirror.primitives.lru import LruCache
from mirror.upstream.breaker import CircuitBreaker
from mirror.upstream.credentials.authorizer import Authorizer
from mirror.upstream.rate_limit import RateLimit, retry_after
from mirror.upstream.session import Session, origin_of

_ATTEMPTS = 2
_RETRY_AFTER = (0.05, 0.25)  # seconds, at random, so that requests do not come back all at once
_TRANSIENT = frozenset({500, 502, 503, 504})
_MAX_RETRY_AFTER = 60  # seconds of a Retry-After that clients receive: the mirror itself asks again by then
_DOWN = frozenset({502, 503, 504})
_MAX_CLIENT_LIMITS = 4096


class Endpoint:
    """One address of an upstream.

    Attributes:
        upstream: the name of the upstream.
        label: host, port and path, which tell the upstream's endpoints apart.
        name: the endpoint's name in messages.
        is_down: whether the circuit breaker is open, because the last requests failed.
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
        self._own_limit = RateLimit(self.name, upstream)
        self._client_limits = LruCache[ClientLogin, RateLimit](_MAX_CLIENT_LIMITS)
        self.is_down = False
        self._on_change: Callable[[], None] = lambda: None
        metrics.upstream_up.labels(upstream, self.label).set_function(lambda: not self.is_down)

    async def __aenter__(self) -> Self:
        await self._authorizer.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._authorizer.__aexit__(kind, error, trace)

    def on_change(self, notify: Callable[[], None]) -> None:
        """Call *notify* whenever `is_down` changes: every hit reads the state, so it is pushed, not computed."""
        self._on_change = notify

    def _succeeded(self) -> None:
        self._breaker.succeeded()
        self._update_state()

    def _failed(self, *, pause: float | None = None) -> None:
        self._breaker.failed(pause=pause)
        self._update_state()

    def _update_state(self) -> None:
        if self.is_down != self._breaker.is_open:
            self.is_down = self._breaker.is_open
            self._on_change()

    @property
    def may_be_asked(self) -> bool:
        """Whether the endpoint is up, or due for a probe."""
        return self._breaker.admits

    @asynccontextmanager
    async def deadline(self, seconds: float) -> AsyncIterator[None]:
        """Limit everything in the block to *seconds*: redirects, tokens and the second attempt included.

        Raises:
            UpstreamTimeout: if the time is over.
        """
        since = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            if not self._session.heard(self._url, since=since):  # else a redirect target or a token service was silent
                self._failed()
            raise UpstreamTimeout(
                f"{self.name} sent nothing for {seconds:.3g} s", upstream=self.upstream, retry_after=5
            ) from error

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        repository: str,
        headers: Mapping[str, str],
        *,
        login: ClientLogin | None = None,
        is_pull: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send an authorized request, with a second attempt after a transient failure. The caller checks the status.

        Args:
            path: below /v2/, with its query.
            repository: the repository to pull from; empty for a request that concerns none.
            login: the client's login; None for the mirror's own credentials.
            is_pull: whether upstreams count the request against their rate limit. It is not sent while that is reached.

        Raises:
            UpstreamError: if there is no response.
        """
        if is_pull:
            self._rate_limit(login).require_allowed(login_advice=self._authorizer.login_advice(login))
        self._breaker.require_closed()
        async with AsyncExitStack() as exits:
            yield await self._respond(exits, method, f"{self._url}/v2/{path}", repository, headers, login)

    async def require_accepted_login(self, login: ClientLogin | None = None) -> bool:
        """Require that the endpoint accepts the credentials for GET /v2/ (distribution-spec, "Determining Support").

        Raises:
            UpstreamError: if it does not accept them, or cannot be asked.
        """
        async with self.request("GET", "", "", {}, login=login) as response:
            self.require_success(response, RepositoryUnknown, "its API", login)
            return True

    def _rate_limit(self, login: ClientLogin | None) -> RateLimit:
        """Return the rate limit of this login: a 429 to one client is no reason to refuse another."""
        if login is None:
            return self._own_limit
        limit = self._client_limits.get(login)
        if limit is None:
            limit = RateLimit(self.name, self.upstream)
            self._client_limits.set(login, limit)
        return limit

    async def _respond(
        self,
        exits: AsyncExitStack,
        method: str,
        url: str,
        repository: str,
        headers: Mapping[str, str],
        login: ClientLogin | None,
    ) -> aiohttp.ClientResponse:
        for left in reversed(range(_ATTEMPTS)):
            try:
                response = await self._authorized(exits, method, url, repository, headers, login)
            except UpstreamUnavailable as error:
                if not isinstance(error, RedirectTargetUnavailable):
                    self._failed()
                if not left or self._breaker.is_open:
                    raise
            else:
                if origin_of(str(response.url)) == origin_of(self._url):
                    self._note(response, is_last=not left)
                later = retry_after(response.headers.get("Retry-After"))  # a second attempt would come too early
                if response.status not in _TRANSIENT or not left or later or self._breaker.is_open:
                    return response
                response.release()
            await asyncio.sleep(random.uniform(*_RETRY_AFTER))  # noqa: S311 - jitter
        raise AssertionError("the last attempt returns or raises")

    def _note(self, response: aiohttp.ClientResponse, *, is_last: bool) -> None:
        """Update the circuit breaker. A 500 may concern one image only: it counts once a request, not per attempt."""
        status = response.status
        if status < 500 or status == 501:
            self._succeeded()
        elif status == 503:
            self._failed(pause=retry_after(response.headers.get("Retry-After")))
        elif status in _DOWN or is_last:
            self._failed()

    async def _authorized(
        self,
        exits: AsyncExitStack,
        method: str,
        url: str,
        repository: str,
        headers: Mapping[str, str],
        login: ClientLogin | None,
    ) -> aiohttp.ClientResponse:
        async def send(authorization: str | None) -> aiohttp.ClientResponse:
            own = {} if authorization is None else {"Authorization": authorization}
            return await exits.enter_async_context(self._session.send(method, url, {**headers, **own}))

        return await self._authorizer.authorized(send, repository, login)

    def require_success(
        self,
        response: aiohttp.ClientResponse,
        unknown: type[ContentUnknown],
        subject: str,
        login: ClientLogin | None = None,
    ) -> None:
        """Raise the error that the status stands for, unless it is 200 or 206.

        Args:
            unknown: the error for 404.
            subject: the requested content, for messages.
        """
        status = response.status
        if status in {200, 206}:
            return
        if status == 404:
            raise unknown(f"{self.name} does not have {subject}", upstream=self.upstream)
        if status == 429:
            seconds = retry_after(response.headers.get("Retry-After"))
            limit = self._rate_limit(login)
            limit.record_429(seconds)
            raise limit.throttled(seconds, subject=subject, login_advice=self._authorizer.login_advice(login))
        if status in {401, 403}:
            raise UpstreamRefused(
                f"{self.name} refuses {subject} ({status}): it does not exist, or these credentials may not pull it: "
                f"{self._authorizer.fix(login)}",
                upstream=self.upstream,
                status=status,
            )
        if status >= 500:
            seconds = retry_after(response.headers.get("Retry-After")) or 5
            raise UpstreamUnavailable(
                f"{self.name} answered {status} for {subject}",
                retry_after=min(seconds, _MAX_RETRY_AFTER),
                upstream=self.upstream,
            )
        raise UpstreamUnavailable(
            f"{self.name} answered {status} for {subject}, a status that the mirror does not expect here",
            upstream=self.upstream,
        )
