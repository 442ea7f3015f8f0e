"""Authorisation at one upstream: Basic, or Bearer tokens (distribution's token specification).

No state is sticky: whatever upstream refuses is forgotten, and the next challenge is answered afresh.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self
from urllib.parse import urlencode, urlsplit

import aiohttp

from mirror.collapse import Collapsed
from mirror.errors import ElsewhereUnavailable, UpstreamRefused, UpstreamThrottled, UpstreamUnavailable
from mirror.hints import Hints
from mirror.oci.challenge import Basic, Bearer, Challenge
from mirror.upstream.session import Session, content_of

_LIFE = 60.0  # seconds, where a token does not say (token specification, "expires_in")
_MARGIN = 0.8  # of its life a token is used: it must not die between here and upstream
_LONGEST_LIFE = 86_400.0
_LONGEST_ANSWER = 2**18


@dataclass(frozen=True, slots=True)
class Credentials:
    """Whom the mirror pulls as."""

    username: str
    password: str = field(repr=False)

    def header(self) -> str:
        return "Basic " + b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class _Scope:
    """What a token is good for."""

    realm: str
    service: str | None
    scope: str

    def url(self, account: str | None) -> str:
        query = {"service": self.service, "scope": self.scope, "account": account}
        joint = "&" if urlsplit(self.realm).query else "?"
        return self.realm + joint + urlencode({name: value for name, value in query.items() if value is not None})


class Authorizer:
    """Authorization headers for the repositories of one upstream."""

    def __init__(self, upstream: str, url: str, credentials: Credentials | None, session: Session) -> None:
        self._upstream = upstream
        self._url = url
        self._credentials = credentials
        self._session = session
        self._collapsed = Collapsed[str, str]()
        self._tokens = Hints[str]()  # headers, by repository
        self._basic = False

    async def __aenter__(self) -> Self:
        await self._collapsed.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._collapsed.__aexit__(kind, error, trace)

    async def header(self, repository: str) -> str | None:
        """What to send without being asked, as far as it is known; None for nothing."""
        if self._basic and self._credentials is not None:
            return self._credentials.header()
        return await self._tokens.get(repository)

    async def forget(self, repository: str, header: str) -> None:
        """Drops what upstream just refused, unless it was renewed in the meantime."""
        self._basic = False
        if await self._tokens.get(repository) == header:
            await self._tokens.drop(repository)

    async def answer(self, challenges: Iterable[Challenge], repository: str) -> str:
        """The header that answers upstream's challenge.

        Raises:
            UpstreamRefused: there is no way in with what the configuration has.
            UpstreamUnavailable, UpstreamThrottled: tokens can't be had now.
        """
        for challenge in challenges:
            match challenge:
                case Bearer():
                    header, _ = await self._collapsed.ask(repository, partial(self._bearer, challenge, repository))
                    return header
                case Basic() if self._credentials is not None:
                    self._basic = True
                    return self._credentials.header()
        raise UpstreamRefused(
            f"{self._upstream} wants credentials for {repository} and the mirror has none that it takes: set username "
            f'and password_file in [upstreams."{self._upstream}"]',
            upstream=self._upstream,
            repository=repository,
        )

    async def _bearer(self, challenge: Bearer, repository: str) -> str:
        """A new token, unless another asker's came between the challenge and now."""
        cached = await self._tokens.get(repository)
        if cached is not None:
            return cached
        scope = _Scope(challenge.realm, challenge.service, challenge.scope or f"repository:{repository}:pull")
        self._check_realm(scope.realm)
        account = None if self._credentials is None else self._credentials.username
        headers = {} if self._credentials is None else {"Authorization": self._credentials.header()}
        try:
            async with self._session.send(self._upstream, "GET", scope.url(account), headers) as response:
                self._check_status(response, scope)
                answer = await content_of(self._upstream, response, _LONGEST_ANSWER)
            token, life = self._parse(answer)
        except UpstreamUnavailable as error:
            raise ElsewhereUnavailable(str(error), upstream=self._upstream) from error
        await self._tokens.keep(repository, f"Bearer {token}", seconds=life * _MARGIN)
        return f"Bearer {token}"

    def _check_realm(self, realm: str) -> None:
        scheme = realm.partition("://")[0].lower()
        if scheme not in {"http", "https"} or (scheme == "http" and self._url.startswith("https:")):
            raise UpstreamRefused(
                f"{self._upstream} names {realm[:80]!r} as the place for tokens, which is not safe to ask",
                upstream=self._upstream,
            )

    def _check_status(self, response: aiohttp.ClientResponse, scope: _Scope) -> None:
        status = response.status
        if status == 200:
            return
        asked = f"{self._upstream}'s token service answered {status} for {scope.scope}"
        if status == 429:
            raise UpstreamThrottled(asked, upstream=self._upstream)
        if status >= 500:
            raise UpstreamUnavailable(asked, upstream=self._upstream, status=status)
        raise UpstreamRefused(
            f'{asked}: the image does not exist, or username and password_file in [upstreams."{self._upstream}"] '
            f"are missing or wrong",
            upstream=self._upstream,
            status=status,
        )

    def _parse(self, answer: bytes) -> tuple[str, float]:
        try:
            content: object = json.loads(answer)
        except ValueError:
            content = None
        found = content if isinstance(content, dict) else {}
        token, life = found.get("token") or found.get("access_token"), found.get("expires_in")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise UpstreamUnavailable(f"{self._upstream}'s token service sent no token", upstream=self._upstream)
        return token, min(life, _LONGEST_LIFE) if isinstance(life, int | float) and life > 0 else _LIFE
