"""Bearer tokens from an upstream's token service (distribution's token specification, and OAuth2)."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import aiohttp

from mirror.errors import RedirectTargetUnavailable, UpstreamRefused, UpstreamUnavailable
from mirror.oci.authorization import Login
from mirror.oci.challenge import Bearer
from mirror.primitives.lru import LruCache
from mirror.upstream.credentials.source import Credentials, IdentityToken
from mirror.upstream.rate_limit import RateLimit, retry_after
from mirror.upstream.session import Session, content_of

_CLIENT = "oci-mirror"
_DEFAULT_LIFETIME = 60.0  # seconds, for a token without expires_in (token specification)
_MAX_LIFETIME = 86_400.0  # seconds
_MAX_RESPONSE = 2**18  # bytes
_MAX_RATE_LIMITS = 4096


class BearerTokens:
    """Client of the token services that one upstream's challenges name."""

    def __init__(self, upstream: str, url: str, session: Session) -> None:
        self._upstream = upstream
        self._url = url
        self._session = session
        self._rate_limits = LruCache[Credentials | None, RateLimit](_MAX_RATE_LIMITS)

    async def token(
        self, challenge: Bearer, scope: str | None, credentials: Credentials | None, *, fix: str
    ) -> tuple[str, float]:
        """Request a new token. Return it and its lifetime in seconds.

        Args:
            scope: the access to request; None to request a token without one.
            fix: the next step that the message names if the token service refuses the credentials.

        Raises:
            UpstreamRefused: if the token service refuses these credentials.
            UpstreamUnavailable, UpstreamThrottled: if the token service can't issue a token now.
        """
        limit = self._rate_limit(credentials)
        limit.require_allowed()
        self._require_secure_realm(challenge.realm)
        query = {"service": challenge.service, "scope": scope}
        method, url, headers, form = "GET", challenge.realm, {}, None
        if isinstance(credentials, IdentityToken):
            # In the body, because services and proxies log URLs.
            grant = {"grant_type": "refresh_token", "client_id": _CLIENT, "refresh_token": credentials.text}
            method, form = "POST", _present({**query, **grant})
        else:
            if isinstance(credentials, Login):
                query["account"] = credentials.username
                headers = {"Authorization": credentials.header()}
            url += ("&" if "?" in url else "?") + urlencode(_present(query))
        try:
            async with self._session.send(method, url, headers, named_by=self._url, form=form) as response:
                self._require_success(response, scope, fix, limit)
                body = await content_of(self._upstream, response, _MAX_RESPONSE)
            return self._parse(body)
        except UpstreamUnavailable as error:
            raise RedirectTargetUnavailable(str(error), upstream=self._upstream) from error

    def _rate_limit(self, credentials: Credentials | None) -> RateLimit:
        """Return the rate limit of these credentials: a 429 to one client is no reason to refuse another."""
        limit = self._rate_limits.get(credentials)
        if limit is None:
            limit = RateLimit(f"{self._upstream}'s token service", self._upstream)
            self._rate_limits.set(credentials, limit)
        return limit

    def _require_secure_realm(self, realm: str) -> None:
        scheme = realm.partition("://")[0].lower()
        is_secure = self._url.startswith("https:")
        if scheme not in ({"https"} if is_secure else {"http", "https"}):
            kind = "not an https URL" if is_secure else "neither an http nor an https URL"
            raise UpstreamRefused(
                f"{self._upstream} names the token service {realm[:80]!r}, which is {kind}: the mirror sends no "
                f'credentials there; check url in [upstreams."{self._upstream}"]',
                upstream=self._upstream,
            )

    def _require_success(self, response: aiohttp.ClientResponse, scope: str | None, fix: str, limit: RateLimit) -> None:
        status = response.status
        if status == 200:
            return
        message = f"{self._upstream}'s token service answered {status} for {scope or 'a login'}"
        if status == 429:
            seconds = retry_after(response.headers.get("Retry-After"))
            limit.record_429(seconds)
            raise limit.throttled(seconds, subject=scope or "a login")
        if status >= 500:
            raise UpstreamUnavailable(message, upstream=self._upstream, status=status)
        raise UpstreamRefused(
            f"{message}: the image does not exist, or the login is missing or wrong: {fix}",
            upstream=self._upstream,
            status=status,
        )

    def _parse(self, body: bytes) -> tuple[str, float]:
        try:
            content: object = json.loads(body)
        except (ValueError, RecursionError):
            content = None
        found = content if isinstance(content, dict) else {}
        token, lifetime = found.get("token") or found.get("access_token"), found.get("expires_in")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise UpstreamUnavailable(f"{self._upstream}'s token service sent no token", upstream=self._upstream)
        return token, min(lifetime, _MAX_LIFETIME) if isinstance(
            lifetime, int | float
        ) and lifetime > 0 else _DEFAULT_LIFETIME


def _present(query: dict[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in query.items() if value is not None}
