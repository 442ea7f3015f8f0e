"""Tenants: which client's rights count at an upstream that decides them itself, and how a client shows its login.

A client learns from a challenge where tokens are to be had: here, at the mirror. It shows its login there once, the
mirror asks the upstream that the login is meant for, and gives a token of its own; rights are asked for pull by pull.
One way for upstreams of every kind, for names with the upstream in front, and for the public pulls of nobody.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime

from aiohttp import web

from mirror.auth.login_throttle import FailedLoginLimiter
from mirror.auth.rules import Caller
from mirror.errors import Denied, Unauthorized
from mirror.oci.authorization import Login, parse_authorization
from mirror.oci.routes import (
    TOKEN_PATH,
    BlobRoute,
    ManifestRoute,
    ReferrersRoute,
    RequestedRepository,
    TagsRoute,
    TokenRoute,
)
from mirror.pull.service import PullService
from mirror.upstream.client_authorization import TOKEN_LIFE, ClientAuthorization, Tenant

_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")

Pulling = ManifestRoute | BlobRoute | TagsRoute | ReferrersRoute


@dataclass(frozen=True, slots=True)
class TokenService:
    """The door of upstreams with `client_auth = "passthrough"`."""

    tenancy: ClientAuthorization
    guesses: FailedLoginLimiter
    default: str  # the upstream that a login counts at where nothing says which

    def check_api(self, request: web.BaseRequest) -> None:
        """Lets a request for `/v2/` pass once its client has been to the token service: it learns only here of it.

        Raises:
            Unauthorized
        """
        shown = parse_authorization(request.headers.get("Authorization"))
        if shown is None or not (isinstance(shown, Login) or self.tenancy.tenant_of(shown)):
            raise self._unauthorized(request, self.default, None, "this registry wants a token, which everybody gets")

    def concern(self, route: Pulling) -> bool:
        """Whether it is the upstream that decides who may pull this."""
        return self.tenancy.concerns(route.asked.repository.upstream)

    @asynccontextmanager
    async def admitted(
        self, request: web.BaseRequest, route: Pulling, pulls: PullService, caller: Caller
    ) -> AsyncIterator[tuple[PullService, Caller]]:
        """Pulls in the name of the request's client, if its upstream lets it, and who that is.

        Raises:
            Unauthorized: a login may help.
            Denied: the one that was shown does not.
            ContentUnknown, UpstreamError: upstream has no such thing for this client, or can't be asked.
        """
        tenant = self._tenant(request, route.asked)
        try:
            if isinstance(route, ManifestRoute | BlobRoute):
                with self._guess(request, route, tenant):
                    await self.tenancy.admit(route, tenant)
            own = caller if tenant.login is None else Caller(tenant.login.username)
            try:
                yield pulls.on_behalf_of(tenant, {tenant.upstream: self.tenancy.registry(tenant)}), own
            except Denied:
                self.tenancy.revoke(route.asked.repository, tenant)
                raise
        except Denied as refusal:
            if tenant.login is not None:
                raise
            raise self._unauthorized(request, tenant.upstream, route.asked, str(refusal)) from refusal

    def _guess(
        self, request: web.BaseRequest, route: ManifestRoute | BlobRoute, tenant: Tenant
    ) -> AbstractContextManager[None]:
        """The trial of a login that nobody has vouched for yet: a token was had with one that is right."""
        shown = parse_authorization(request.headers.get("Authorization"))
        if not isinstance(shown, Login) or self.tenancy.is_admitted(route.asked.repository, tenant):
            return nullcontext()
        return self.guesses.attempt(request.remote or "")

    def _tenant(self, request: web.BaseRequest, asked: RequestedRepository) -> Tenant:
        upstream = asked.repository.upstream
        header = request.headers.get("Authorization")
        if header is None:
            return Tenant(upstream, None)
        match parse_authorization(header):
            case None:
                return Tenant(upstream, None)
            case Login() as login:
                return Tenant(upstream, login)
            case token:
                tenant = self.tenancy.tenant_of(token)
        if tenant is None:
            raise self._unauthorized(request, upstream, asked, "this token is not, or no longer, known here")
        # A login counts at the upstream that it was meant for: no other one is to see it.
        return tenant if tenant.upstream == upstream else Tenant(upstream, None)

    async def token(self, request: web.BaseRequest, route: TokenRoute) -> bytes:
        """The answer of the token service: a token, for a login that its upstream knows, or for nobody.

        Raises:
            Unauthorized: upstream does not know the login.
            TooManyLogins: too many from there were wrong lately.
            UpstreamError: it can't be asked.
        """
        upstream = route.upstream or self.default
        shown = parse_authorization(request.headers.get("Authorization"))
        login = shown if isinstance(shown, Login) and self.tenancy.concerns(upstream) else None
        tenant = Tenant(upstream, login)
        try:
            with nullcontext() if login is None else self.guesses.attempt(request.remote or ""):
                await self.tenancy.check(tenant)
        except Denied as refusal:
            challenge = f'Basic realm="{upstream}"'
            raise Unauthorized(f"{upstream} does not know this login: {refusal}", challenge=challenge) from refusal
        token = self.tenancy.issue(tenant).text
        issued_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        answer = {"token": token, "access_token": token, "expires_in": TOKEN_LIFE, "issued_at": issued_at}
        return json.dumps(answer).encode()

    def _unauthorized(
        self, request: web.BaseRequest, upstream: str, asked: RequestedRepository | None, reason: str
    ) -> Unauthorized:
        own, challenge = _own_url(request), f'Basic realm="{upstream}"'
        if own is not None:
            scope = "" if asked is None else f',scope="repository:{asked.path.partition("/v2/")[2]}:pull"'
            challenge = f'Bearer realm="{own}{TOKEN_PATH}",service="{upstream}"{scope}'
        return Unauthorized(
            f"{reason}; log in at this mirror with your login for {upstream} (docker login, podman login)",
            challenge=challenge,
        )


def _own_url(request: web.BaseRequest) -> str | None:
    """Where this client reaches the mirror, as it said itself; None where it did not.

    What a client, or the proxy before it, says wrongly here misleads nobody but that client.
    """
    host = request.headers.get("Host", "")
    transport = request.transport
    is_tls = transport is not None and transport.get_extra_info("ssl_object") is not None
    is_tls = is_tls or request.headers.get("X-Forwarded-Proto", "").lower() == "https"
    return f"{'https' if is_tls else 'http'}://{host}" if _HOST.fullmatch(host) else None
