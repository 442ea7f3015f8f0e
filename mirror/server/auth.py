"""Authentication and authorization of clients: users, client certificates and access rules.

Every request except /healthz is authenticated before anything is looked up, so that a refusal reveals neither which
paths exist nor what is cached.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web

from mirror.auth.rules import ANONYMOUS_CALLER, Caller, Rule, Rules, is_user
from mirror.auth.users import Logins
from mirror.config import AccessRule, ClientSettings
from mirror.errors import Denied, Unauthorized
from mirror.oci.authorization import Login, parse_authorization
from mirror.oci.routes import Api, Probe, Route, TokenRoute
from mirror.server.connections import common_name

_CHALLENGE = 'Basic realm="mirror", charset="UTF-8"'
_ALWAYS_OPEN = "/healthz"  # for supervisors, which have no login


class Authenticator:
    """Authenticates clients and applies access rules. A verified client certificate takes precedence over a login."""

    def __init__(self, logins: Logins | None, rules: Rules | None, *, certificates: bool) -> None:
        self._logins = logins
        self._rules = rules
        self._certificates = certificates

    async def authenticate(self, request: web.BaseRequest) -> Caller:
        """Return the caller.

        Raises:
            Unauthorized: if the client is unknown, and a login would help.
            Denied: if the client is unknown, and no login would help.
            TooManyLogins: if the login cannot be checked now.
        """
        if request.raw_path.partition("?")[0] == _ALWAYS_OPEN:
            return ANONYMOUS_CALLER
        if self._certificates and (user := _certified(request)) is not None:
            return Caller(user)
        if self._logins is not None:
            return await self._logged_in(request, self._logins)
        if self._certificates:
            raise Denied(
                "this mirror requires a client certificate from an authority that it trusts, with one common name "
                "that is a valid user name; the client sent none (docker reads client.cert and client.key from "
                "/etc/docker/certs.d/<mirror>/)",
                certificate="none",
            )
        return ANONYMOUS_CALLER

    async def _logged_in(self, request: web.BaseRequest, logins: Logins) -> Caller:
        header = request.headers.get("Authorization", "")
        if (known := logins.cached(header)) is not None:
            return known
        login = parse_authorization(header)
        if not isinstance(login, Login):
            raise Unauthorized(
                "this mirror requires a login: log in to it first (docker login, podman login)",
                challenge=_CHALLENGE,
            )
        caller = await logins.authenticate(header, login, request.remote or "")
        if caller is None:
            raise Unauthorized(
                "the user name or the password is wrong: log in to this mirror again (docker login, podman login)",
                challenge=_CHALLENGE,
            )
        return caller

    def reload(self) -> None:
        """Read the users file again.

        Raises:
            ConfigurationInvalid: if the file is invalid; the previous users stay in force.
        """
        if self._logins is not None:
            self._logins.reload()

    def require_allowed(self, caller: Caller, route: Route) -> None:
        """Raise Denied if no rule allows the caller to pull from the route's repository.

        A denial is 403. A 404 would suggest a typing error, and a 401 would make clients ask for another
        login. Clients with another registry to fall back to do so at once (dockerd because the error has a detail), and
        the others show the message.
        """
        match route:
            case Api() | TokenRoute() | Probe():
                return
            case _:
                if self._rules is not None:
                    self._rules.require_allowed(caller, route.requested.repository)


def _certified(request: web.BaseRequest) -> str | None:
    """Return the user that the client certificate names; None without a certificate or with an invalid name."""
    name = common_name(request)
    return name if name is not None and is_user(name) else None


@asynccontextmanager
async def authentication(settings: ClientSettings, access: Sequence[AccessRule]) -> AsyncIterator[Authenticator | None]:
    """Open the authenticator of the settings; None if any client may pull everything.

    Raises:
        ConfigurationInvalid: if the users file is invalid.
    """
    rules = Rules(Rule(one.users, one.repositories, one.allow) for one in access) if access else None
    certificates = settings.certificates_file is not None
    async with AsyncExitStack() as exits:
        logins = None
        if settings.users_file is not None:
            logins = await exits.enter_async_context(Logins(settings.users_file))
        yield Authenticator(logins, rules, certificates=certificates) if logins or rules or certificates else None
