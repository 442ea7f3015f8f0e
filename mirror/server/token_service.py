"""The token service: how a client's login reaches the upstream that authorizes it (`client_auth = "passthrough"`).

A challenge names the mirror itself as the token service (distribution token specification). The client sends its login
there once; the mirror checks it at the upstream that the login is meant for, and issues a token of its own. Rights are
checked per pull. This works alike for every kind of upstream, for names with the upstream in front, and for anonymous
pulls.
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
from mirror.origin import NO_LOGIN, ClientLogin, PullContext
from mirror.upstream.client_authorization import TOKEN_LIFETIME, ClientAuthorization, TokenSubject

_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")

ContentRoute = ManifestRoute | BlobRoute | TagsRoute | ReferrersRoute


@dataclass(frozen=True, slots=True)
class TokenService:
    """Authorizes clients of passthrough upstreams.

    Attributes:
        default: the upstream that a login is meant for if the request names none.
    """

    authorization: ClientAuthorization
    failed_logins: FailedLoginLimiter
    default: str

    def require_token(self, request: web.BaseRequest) -> None:
        """Require a token for `/v2/`: only the challenge of this endpoint makes a client use the token service.

        Raises:
            Unauthorized: if the request has neither a login nor a valid token.
        """
        shown = parse_authorization(request.headers.get("Authorization"))
        if shown is None or not (isinstance(shown, Login) or self.authorization.subject_of(shown)):
            raise self._unauthorized(
                request,
                self.default,
                None,
                "/v2/ of this mirror requires a token or a login: request a token from the token service in "
                f"WWW-Authenticate (anonymously, or with your login for {self.default})",
            )

    def concerns(self, route: ContentRoute) -> bool:
        """Return whether the upstream authorizes the clients that pull this."""
        return self.authorization.concerns(route.requested.repository.upstream)

    @asynccontextmanager
    async def authorized(
        self, request: web.BaseRequest, route: ContentRoute, caller: Caller
    ) -> AsyncIterator[PullContext]:
        """Yield the context of a pull with the client's login, if the upstream allows it.

        Raises:
            Unauthorized: if a login may help.
            Denied: if the client's login does not suffice.
            ContentUnknown, UpstreamError: if the upstream has no such content for this client, or cannot be asked.
        """
        context = self._context(request, route.requested, caller)
        try:
            if isinstance(route, ManifestRoute | BlobRoute):
                with self._limit_failures(request, context):
                    await self.authorization.require_allowed(route, context)
            try:
                yield context
            except Denied:
                self.authorization.revoke(context)
                raise
        except Denied as refusal:
            if isinstance(context.login, Login):
                raise
            upstream = context.repository.upstream
            message = f"{refusal}; {_login_advice(upstream)}"
            raise self._unauthorized(request, upstream, route.requested, message) from refusal

    def _limit_failures(self, request: web.BaseRequest, context: PullContext) -> AbstractContextManager[None]:
        """Count a failure of a login that no upstream has accepted yet. A token proves an accepted login."""
        shown = parse_authorization(request.headers.get("Authorization"))
        if not isinstance(shown, Login) or self.authorization.is_allowed(context):
            return nullcontext()
        return self.failed_logins.attempt(request.remote or "")

    def _context(self, request: web.BaseRequest, requested: RequestedRepository, caller: Caller) -> PullContext:
        login = self._login(request, requested)
        own = Caller(login.username) if isinstance(login, Login) else caller
        return PullContext(own, requested.repository, login)

    def _login(self, request: web.BaseRequest, requested: RequestedRepository) -> ClientLogin:
        header = request.headers.get("Authorization")
        if header is None:
            return NO_LOGIN
        match parse_authorization(header):
            case None:
                return NO_LOGIN
            case Login() as login:
                return login
            case token:
                subject = self.authorization.subject_of(token)
        upstream = requested.repository.upstream
        if subject is None:
            message = f"the token is invalid or has expired; {_login_advice(upstream)}"
            raise self._unauthorized(request, upstream, requested, message)
        # A login is meant for one upstream: no other upstream may receive it.
        return subject.login if subject.upstream == upstream else NO_LOGIN

    async def token(self, request: web.BaseRequest, route: TokenRoute) -> bytes:
        """Return the token service's answer: a token for a login that its upstream accepts, or for anonymous pulls.

        Raises:
            Unauthorized: if the upstream does not accept the login.
            TooManyLogins: if too many logins from this address failed lately.
            UpstreamError: if the upstream cannot be asked.
        """
        upstream = route.upstream or self.default
        shown = parse_authorization(request.headers.get("Authorization"))
        is_login = isinstance(shown, Login) and self.authorization.concerns(upstream)
        subject = TokenSubject(upstream, shown if isinstance(shown, Login) and is_login else NO_LOGIN)
        try:
            with self.failed_logins.attempt(request.remote or "") if is_login else nullcontext():
                await self.authorization.require_accepted_login(subject)
        except Denied as refusal:
            challenge = f'Basic realm="{upstream}"'
            raise Unauthorized(f"{upstream} does not accept this login: {refusal}", challenge=challenge) from refusal
        token = self.authorization.issue(subject).text
        issued_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        answer = {"token": token, "access_token": token, "expires_in": TOKEN_LIFETIME, "issued_at": issued_at}
        return json.dumps(answer).encode()

    def _unauthorized(
        self, request: web.BaseRequest, upstream: str, requested: RequestedRepository | None, message: str
    ) -> Unauthorized:
        own, challenge = _own_url(request), f'Basic realm="{upstream}"'
        if own is not None:
            scope = "" if requested is None else f',scope="repository:{requested.path.partition("/v2/")[2]}:pull"'
            challenge = f'Bearer realm="{own}{TOKEN_PATH}",service="{upstream}"{scope}'
        return Unauthorized(message, challenge=challenge)


def _login_advice(upstream: str) -> str:
    return f"log in at this mirror with your login for {upstream} (docker login, podman login)"


def _own_url(request: web.BaseRequest) -> str | None:
    """Return the mirror's URL according to the request's Host header; None if that is missing or invalid.

    A wrong header only misleads the client that sent it.
    """
    host = request.headers.get("Host", "")
    transport = request.transport
    is_tls = transport is not None and transport.get_extra_info("ssl_object") is not None
    is_tls = is_tls or request.headers.get("X-Forwarded-Proto", "").lower() == "https"
    return f"{'https' if is_tls else 'http'}://{host}" if _HOST.fullmatch(host) else None
