"""The door: who comes in, and to which repositories.

Each request but one for /healthz passes it before anything else is found out, so that its answer tells those who stay
outside nothing of what is inside: not which paths there are, nor what is cached.
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
_ALWAYS_OPEN = "/healthz"  # who asks it restarts what doesn't answer, and has no login


class Authenticator:
    """Lets requests in, or not.

    A certificate goes before a login: whoever shows one that was verified is that one.
    """

    def __init__(self, logins: Logins | None, rules: Rules | None, *, certificates: bool) -> None:
        self._logins = logins
        self._rules = rules
        self._certificates = certificates

    async def admit(self, request: web.BaseRequest) -> Caller:
        """Who asks.

        Raises:
            Unauthorized: nobody that is known here, and a login would help.
            Denied: nobody that is known here, and no login would help.
            TooManyLogins: it could not be found out now.
        """
        if request.raw_path.partition("?")[0] == _ALWAYS_OPEN:
            return ANONYMOUS_CALLER
        if self._certificates and (user := _certified(request)) is not None:
            return Caller(user)
        if self._logins is not None:
            return await self._logged_in(request, self._logins)
        if self._certificates:
            raise Denied(
                "this mirror lets in who shows a client certificate from an authority that it knows, with one common "
                "name that can be a user's; none was shown (docker looks for client.cert and client.key in "
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
                "this mirror lets in its users only: log in to it first (docker login, podman login)",
                challenge=_CHALLENGE,
            )
        caller = await logins.authenticate(header, login, request.remote or "")
        if caller is None:
            raise Unauthorized(
                "the name or the password is wrong: log in to this mirror again (docker login, podman login)",
                challenge=_CHALLENGE,
            )
        return caller

    def reload(self) -> None:
        """Reads the users anew.

        Raises:
            ConfigurationInvalid: the file is not what it should be; the users stay as they were.
        """
        if self._logins is not None:
            self._logins.reload()

    def check(self, caller: Caller, route: Route) -> None:
        """Lets pass who may have what the route leads to.

        A denial is a 403, and not a 404 that would send people to look for a name that they spelled right. All clients
        that have another place to go to go there at once (dockerd since the error has a detail), and the others show
        the message. A 401 would send them round: no other login is wanted of a user who is known.

        Raises:
            Denied
        """
        match route:
            case Api() | TokenRoute() | Probe():
                return
            case _:
                if self._rules is not None:
                    self._rules.require_allowed(caller, route.asked.repository)


def _certified(request: web.BaseRequest) -> str | None:
    """The user that a client certificate names; None where there is none, or where its name can't be a user's."""
    name = common_name(request)
    return name if name is not None and is_user(name) else None


@asynccontextmanager
async def door(settings: ClientSettings, access: Sequence[AccessRule]) -> AsyncIterator[Authenticator | None]:
    """The door that the settings ask for; None where all may come in and pull everything.

    Raises:
        ConfigurationInvalid: the file of users is not what it should be.
    """
    rules = Rules(Rule(one.users, one.repositories, one.allow) for one in access) if access else None
    certificates = settings.certificates_file is not None
    async with AsyncExitStack() as exits:
        logins = None
        if settings.users_file is not None:
            logins = await exits.enter_async_context(Logins(settings.users_file))
        yield Authenticator(logins, rules, certificates=certificates) if logins or rules or certificates else None
