"""Authorization at one endpoint: Basic, or Bearer tokens (the distribution token specification).

No state is sticky: a header that the endpoint refuses is dropped, and the next challenge is answered again. A header
is reused as long as the credentials behind it are in force, and no longer. Headers of the mirror's own credentials and
of each client's login are kept apart.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self

import aiohttp

from mirror.errors import UpstreamRefused
from mirror.oci.authorization import Login, Token
from mirror.oci.challenge import Basic, Bearer, Challenge, parse_challenges
from mirror.origin import ClientLogin, NoLogin
from mirror.primitives.lru import LruCache
from mirror.primitives.singleflight import SingleFlight
from mirror.upstream.credentials.bearer_tokens import BearerTokens
from mirror.upstream.credentials.source import Credentials, CredentialSource, FixedCredentials
from mirror.upstream.session import Session, origin_of

_MARGIN = 0.8  # share of its lifetime for which a token is used: it must not expire in transit
_REUSED_FOR = 600.0  # seconds for which a login is sent without a challenge, before its source is read again
_MAX_OWN = 4096
_MAX_CLIENTS = 65_536  # a client that tries many repositories must not push out the mirror's own headers

_Send = Callable[[str | None], Awaitable[aiohttp.ClientResponse]]


@dataclass(frozen=True, slots=True)
class _Header:
    """An Authorization header that was accepted, and the credentials it was made from.

    Attributes:
        expires: on the monotonic clock.
        any_repository: whether it is valid for every repository, or only for the one it was requested for.
    """

    header: str = field(repr=False)
    credentials: Credentials | None
    expires: float
    any_repository: bool


_Key = tuple[ClientLogin | None, str | None]
"""The client's login (None: the mirror's own credentials), and the repository (None: any)."""


class Authorizer:
    """Authorizes requests to one endpoint, with the mirror's credentials or with a client's login."""

    def __init__(
        self,
        upstream: str,
        url: str,
        source: CredentialSource,
        session: Session,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstream = upstream
        self._url = url
        self._own_source = source
        self._session = session
        self._clock = clock
        self._tokens = BearerTokens(upstream, url, session)
        self._requests = SingleFlight[tuple[str, Credentials | None], _Header]()
        self._own_headers = LruCache[_Key, _Header](_MAX_OWN)
        self._client_headers = LruCache[_Key, _Header](_MAX_CLIENTS)

    async def __aenter__(self) -> Self:
        await self._requests.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._requests.__aexit__(kind, error, trace)

    def fix(self, login: ClientLogin | None) -> str:
        """Return the fix for the operator or the client if the endpoint refuses, in the imperative."""
        return self._source(login).fix

    def login_advice(self, login: ClientLogin | None) -> str | None:
        """Return how to configure a login of the mirror, in the imperative.

        None if one is configured, or if the request has a client's login: then the mirror's is not used.
        """
        return self._own_source.fix if login is None and self._own_source.is_anonymous else None

    def _source(self, login: ClientLogin | None) -> CredentialSource:
        if login is None:
            return self._own_source
        shown = None if isinstance(login, NoLogin) else login
        return FixedCredentials(shown, fix=f"log in to the mirror with a login for {self._upstream} that may pull it")

    def _headers(self, login: ClientLogin | None) -> LruCache[_Key, _Header]:
        return self._own_headers if login is None else self._client_headers

    async def authorized(
        self, send: _Send, repository: str, login: ClientLogin | None = None
    ) -> aiohttp.ClientResponse:
        """Send a request, answer the endpoint's challenge if there is one, and return the response.

        The response may still be a refusal.

        Args:
            send: sends the request with the given Authorization header; None for without.
            repository: the repository to pull from; empty for a request that concerns none.
            login: the client's login; None for the mirror's own credentials.

        Raises:
            UpstreamRefused: if the endpoint's challenge cannot be answered with these credentials.
            UpstreamUnavailable, UpstreamThrottled: if credentials or tokens are not available now.
        """
        source = self._source(login)
        known = self._known(source, repository, login)
        response = await send(None if known is None else known.header)
        if known is not None and self._is_refusal(response):
            self._forget(repository, login, known)
            if response.status == 403 and not await source.renewed(known.credentials):
                return response
            # Sent again without a header: nvcr.io answers an expired token with a challenge that leads nowhere.
            response.release()
            response = await send(None)
        if response.status != 401 or not self._is_refusal(response):
            return response
        challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
        response.release()
        header = await self._answer(source, challenges, repository, login)
        response = await send(header.header)
        if self._is_refusal(response):
            self._forget(repository, login, header)
            # ECR's passwords expire after 12 hours, with 403, and credential helpers cache some for too long.
            if await source.renewed(header.credentials):
                response.release()
                header = await self._answer(source, challenges, repository, login)
                response = await send(header.header)
                if self._is_refusal(response):
                    self._forget(repository, login, header)
        return response

    def _is_refusal(self, response: aiohttp.ClientResponse) -> bool:
        """Return whether the endpoint itself refused. A redirect's target has seen no credentials, and must not."""
        return response.status in {401, 403} and origin_of(str(response.url)) == origin_of(self._url)

    def _known(self, source: CredentialSource, repository: str, login: ClientLogin | None) -> _Header | None:
        """Return a header to send without waiting for a challenge."""
        headers = self._headers(login)
        found = headers.get((login, repository)) or headers.get((login, None))
        if found is None or (self._clock() < found.expires and source.holds(found.credentials)):
            return found
        self._forget(repository, login, found)
        return None

    def _forget(self, repository: str, login: ClientLogin | None, header: _Header) -> None:
        """Drop a header that was just refused, unless it was renewed in the meantime."""
        key = (login, None if header.any_repository else repository)
        headers = self._headers(login)
        if headers.get(key) == header:
            headers.delete(key)

    async def _answer(
        self, source: CredentialSource, challenges: Iterable[Challenge], repository: str, login: ClientLogin | None
    ) -> _Header:
        """Return a header that answers the endpoint's challenge."""
        credentials = await source.credentials()
        try:
            header = await self._answer_as(source, credentials, challenges, repository, login)
        except UpstreamRefused:
            if not await source.renewed(credentials):
                raise
            header = await self._answer_as(source, await source.credentials(), challenges, repository, login)
        self._headers(login).set((login, None if header.any_repository else repository), header)
        return header

    async def _answer_as(
        self,
        source: CredentialSource,
        credentials: Credentials | None,
        challenges: Iterable[Challenge],
        repository: str,
        login: ClientLogin | None,
    ) -> _Header:
        for challenge in challenges:
            match challenge, credentials:
                case (_, Token() as shown) | (Basic(), Login() as shown):
                    return _Header(shown.header(), shown, self._clock() + _REUSED_FOR, any_repository=True)
                case Bearer(), _:
                    fetch = partial(self._bearer, source, challenge, repository, credentials, login)
                    header, _ = await self._requests.do((repository, credentials), fetch)
                    return header
        raise UpstreamRefused(
            f"{self._upstream} requires credentials for {repository or 'its API'}, and none that it accepts are known: "
            f"{source.fix}",
            upstream=self._upstream,
            repository=repository,
        )

    async def _bearer(
        self,
        source: CredentialSource,
        challenge: Bearer,
        repository: str,
        credentials: Credentials | None,
        login: ClientLogin | None,
    ) -> _Header:
        """Request a token, unless another request's token arrived between the challenge and now."""
        known = self._headers(login).get((login, repository))
        if known is not None and known.credentials == credentials and self._clock() < known.expires:
            return known
        scope = challenge.scope or (f"repository:{repository}:pull" if repository else None)
        token, lifetime = await self._tokens.token(challenge, scope, credentials, fix=source.fix)
        return _Header(f"Bearer {token}", credentials, self._clock() + lifetime * _MARGIN, any_repository=False)
