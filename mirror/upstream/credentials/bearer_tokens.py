"""Token services: who gives Bearer tokens to upstream's clients (distribution's token specification, and OAuth2)."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import aiohttp

from mirror.errors import RedirectTargetUnavailable, UpstreamRefused, UpstreamThrottled, UpstreamUnavailable
from mirror.oci.authorization import Login
from mirror.oci.challenge import Bearer
from mirror.primitives.lru import LruCache
from mirror.upstream.credentials.source import Credentials, IdentityToken
from mirror.upstream.rate_limit import RateLimit, retry_after
from mirror.upstream.session import Session, content_of

_CLIENT = "oci-mirror"
_LIFE = 60.0  # seconds, where a token does not say (token specification, "expires_in")
_LONGEST_LIFE = 86_400.0
_LONGEST_ANSWER = 2**18
_MAX_RATE_LIMITS = 4096


class BearerTokens:
    """Whatever one upstream's challenges name as the place for tokens."""

    def __init__(self, upstream: str, url: str, session: Session) -> None:
        self._upstream = upstream
        self._url = url
        self._session = session
        self._rate_limits = LruCache[Credentials | None, RateLimit](_MAX_RATE_LIMITS)

    async def token(
        self, challenge: Bearer, scope: str | None, credentials: Credentials | None, *, cure: str
    ) -> tuple[str, float]:
        """A new token, and the seconds that it lives.

        Args:
            scope: what it is to be good for; None for nothing in particular.
            cure: what to do if they are refused.

        Raises:
            UpstreamRefused: not for these credentials.
            UpstreamUnavailable, UpstreamThrottled: tokens can't be had now.
        """
        limit = self._rate_limit(credentials)
        limit.admit()
        self._check_realm(challenge.realm)
        asked = {"service": challenge.service, "scope": scope}
        method, url, headers, form = "GET", challenge.realm, {}, None
        if isinstance(credentials, IdentityToken):
            # In the body: what is in a URL, services and proxies write into their logs.
            grant = {"grant_type": "refresh_token", "client_id": _CLIENT, "refresh_token": credentials.text}
            method, form = "POST", _known({**asked, **grant})
        else:
            if isinstance(credentials, Login):
                asked["account"] = credentials.username
                headers = {"Authorization": credentials.header()}
            url += ("&" if "?" in url else "?") + urlencode(_known(asked))
        try:
            async with self._session.send(method, url, headers, named_by=self._url, form=form) as response:
                self._check_status(response, scope, cure, limit)
                answer = await content_of(self._upstream, response, _LONGEST_ANSWER)
            return self._parse(answer)
        except UpstreamUnavailable as error:
            raise RedirectTargetUnavailable(str(error), upstream=self._upstream) from error

    def _rate_limit(self, credentials: Credentials | None) -> RateLimit:
        """Return the rate limit of these credentials: a 429 to one client is no reason to refuse another."""
        limit = self._rate_limits.get(credentials)
        if limit is None:
            limit = RateLimit(f"{self._upstream}'s token service", self._upstream)
            self._rate_limits.set(credentials, limit)
        return limit

    def _check_realm(self, realm: str) -> None:
        scheme = realm.partition("://")[0].lower()
        if scheme not in {"http", "https"} or (scheme == "http" and self._url.startswith("https:")):
            raise UpstreamRefused(
                f"{self._upstream} names {realm[:80]!r} as the place for tokens, which is not safe to ask",
                upstream=self._upstream,
            )

    def _check_status(self, response: aiohttp.ClientResponse, scope: str | None, cure: str, limit: RateLimit) -> None:
        status = response.status
        if status == 200:
            return
        asked = f"{self._upstream}'s token service answered {status} for {scope or 'a login'}"
        if status == 429:
            seconds = retry_after(response.headers.get("Retry-After"))
            limit.told(seconds)
            raise UpstreamThrottled(asked, retry_after=seconds, upstream=self._upstream)
        if status >= 500:
            raise UpstreamUnavailable(asked, upstream=self._upstream, status=status)
        raise UpstreamRefused(
            f"{asked}: the image does not exist, or the login is missing or wrong: {cure}",
            upstream=self._upstream,
            status=status,
        )

    def _parse(self, answer: bytes) -> tuple[str, float]:
        try:
            content: object = json.loads(answer)
        except (ValueError, RecursionError):
            content = None
        found = content if isinstance(content, dict) else {}
        token, life = found.get("token") or found.get("access_token"), found.get("expires_in")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise UpstreamUnavailable(f"{self._upstream}'s token service sent no token", upstream=self._upstream)
        return token, min(life, _LONGEST_LIFE) if isinstance(life, int | float) and life > 0 else _LIFE


def _known(query: dict[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in query.items() if value is not None}
