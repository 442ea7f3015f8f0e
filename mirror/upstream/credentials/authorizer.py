"""Authorisation at one upstream: Basic, or Bearer tokens (distribution's token specification).

No state is sticky: whatever upstream refuses is forgotten, and the next challenge is answered afresh. What opened a
repository is held for as long as the credentials that it was had with are in force, and no longer.
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
from mirror.primitives.lru import LruCache
from mirror.primitives.singleflight import SingleFlight
from mirror.upstream.credentials.bearer_tokens import BearerTokens
from mirror.upstream.credentials.source import Credentials, CredentialSource, FixedCredentials
from mirror.upstream.session import Session, origin_of

_MARGIN = 0.8  # of its life a token is used: it must not die between here and upstream
_SHOWN_FOR = 600.0  # seconds in which a login is sent unasked, before its source is asked for it anew
_MOST_HELD = 4096

_Send = Callable[[str | None], Awaitable[aiohttp.ClientResponse]]


@dataclass(frozen=True, slots=True)
class _Held:
    """A header that opens something, and whose it is."""

    header: str = field(repr=False)
    credentials: Credentials | None
    until: float
    everywhere: bool  # or in one repository


class Authorizer:
    """Gets requests to one upstream let in."""

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
        self._source = source
        self._session = session
        self._clock = clock
        self._tokens = BearerTokens(upstream, url, session)
        self._collapsed = SingleFlight[tuple[str, Credentials | None], _Held]()
        self._held = LruCache[str | None, _Held](_MOST_HELD)  # by repository; None for what opens them all

    async def __aenter__(self) -> Self:
        await self._collapsed.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._collapsed.__aexit__(kind, error, trace)

    def on_behalf_of(self, shown: Login | Token | None) -> Authorizer:
        """The same upstream with a client's credentials, or with none, and never with the mirror's own.

        It is cheap, holds tokens of its own, and ends with this one.
        """
        source = FixedCredentials(shown, fix=f"log in to the mirror with a login for {self._upstream} that may pull it")
        own = Authorizer(self._upstream, self._url, source, self._session, clock=self._clock)
        own._collapsed = self._collapsed
        return own

    @property
    def fix(self) -> str:
        """What to do where upstream refuses, in the imperative."""
        return self._source.fix

    async def authorized(self, send: _Send, repository: str) -> aiohttp.ClientResponse:
        """The answer to a request, with whatever it takes to be let in. Its status may still say no.

        Args:
            send: sends the request with this Authorization header; None for without.
            repository: to pull from; empty for a request that is about none.

        Raises:
            UpstreamRefused: there is no way in with the credentials at hand.
            UpstreamUnavailable, UpstreamThrottled: credentials or tokens can't be had now.
        """
        held = self._known(repository)
        response = await send(None if held is None else held.header)
        if held is not None and self._refuses(response):
            self._forget(repository, held)
            if response.status == 403 and not await self._source.renewed(held.credentials):
                return response
            # Asked again without anything: nvcr.io answers an expired token with a challenge that leads nowhere.
            response.release()
            response = await send(None)
        if response.status != 401 or not self._refuses(response):
            return response
        challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
        response.release()
        held = await self._answer(challenges, repository)
        response = await send(held.header)
        if self._refuses(response):
            self._forget(repository, held)
            # ECR's passwords end after 12 hours, with 403, and helpers keep some for too long.
            if await self._source.renewed(held.credentials):
                response.release()
                held = await self._answer(challenges, repository)
                response = await send(held.header)
                if self._refuses(response):
                    self._forget(repository, held)
        return response

    def _refuses(self, response: aiohttp.ClientResponse) -> bool:
        """Whether upstream does. A host that it redirects to has seen none of our credentials, and is to see none."""
        return response.status in {401, 403} and origin_of(str(response.url)) == origin_of(self._url)

    def _known(self, repository: str) -> _Held | None:
        """What to send without being asked."""
        held = self._held.get(repository) or self._held.get(None)
        if held is None or (self._clock() < held.until and self._source.holds(held.credentials)):
            return held
        self._forget(repository, held)
        return None

    def _forget(self, repository: str, held: _Held) -> None:
        """Drops what upstream just refused, unless it was renewed in the meantime."""
        key = None if held.everywhere else repository
        if self._held.get(key) == held:
            self._held.delete(key)

    async def _answer(self, challenges: Iterable[Challenge], repository: str) -> _Held:
        """What answers upstream's challenge."""
        credentials = await self._source.credentials()
        try:
            held = await self._answer_as(credentials, challenges, repository)
        except UpstreamRefused:
            if not await self._source.renewed(credentials):
                raise
            held = await self._answer_as(await self._source.credentials(), challenges, repository)
        self._held.set(None if held.everywhere else repository, held)
        return held

    async def _answer_as(
        self, credentials: Credentials | None, challenges: Iterable[Challenge], repository: str
    ) -> _Held:
        for challenge in challenges:
            match challenge, credentials:
                case (_, Token() as shown) | (Basic(), Login() as shown):
                    return _Held(shown.header(), shown, self._clock() + _SHOWN_FOR, everywhere=True)
                case Bearer(), _:
                    ask = partial(self._bearer, challenge, repository, credentials)
                    held, _ = await self._collapsed.ask((repository, credentials), ask)
                    return held
        raise UpstreamRefused(
            f"{self._upstream} wants credentials for {repository or 'its API'} and there are none that it takes: "
            f"{self._source.fix}",
            upstream=self._upstream,
            repository=repository,
        )

    async def _bearer(self, challenge: Bearer, repository: str, credentials: Credentials | None) -> _Held:
        """A new token, unless another asker's came between the challenge and now."""
        held = self._held.get(repository)
        if held is not None and held.credentials == credentials and self._clock() < held.until:
            return held
        scope = challenge.scope or (f"repository:{repository}:pull" if repository else None)
        token, life = await self._tokens.token(challenge, scope, credentials, fix=self._source.fix)
        return _Held(f"Bearer {token}", credentials, self._clock() + life * _MARGIN, everywhere=False)
