"""Logins as registries ask for them: Basic, and Bearer with a token server."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from urllib.parse import parse_qsl

from tests.fake.answers import Answer
from tests.fake.journal import Seen
from tests.fake.origin import Origin, problem


def basic(user: str, password: str) -> str:
    """The Authorization header of this login."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class TokenServer(Origin):
    """Hands out bearer tokens at ``/token``, and knows which are still good."""

    def __init__(self) -> None:
        super().__init__()
        self.logins: dict[str, str] = {}  # user -> password
        self.refresh_tokens: set[str] = set()  # empty, with no logins either: anybody gets a token
        self.forms: list[dict[str, str]] = []  # what was asked, as a query or as a body
        self.fields: tuple[str, ...] = ("token",)  # which keys of the answer hold the token
        self.expires_in: int | None = 300  # seconds as told to the asker; None: not told. Only revoke() ends a token
        self._good: dict[str, str] = {}  # token -> scope
        self._serial = count(1)

    @property
    def realm(self) -> str:
        """Where challenges send clients."""
        return f"{self.url}/token"

    @property
    def asked(self) -> list[Seen]:
        """All requests for tokens."""
        return self.journal.of(path="/token")

    def grants(self, token: str, scope: str) -> bool:
        """Whether this token is (still) good for that scope."""
        return self._good.get(token) == scope

    def revoke(self) -> None:
        """Every token that was handed out is worthless from now on."""
        self._good.clear()

    async def respond(self, seen: Seen, body: bytes) -> Answer:
        form = dict(parse_qsl(seen.query or body.decode()))
        self.forms.append(form)
        if (self.logins or self.refresh_tokens) and not self._knows(seen.headers.get("Authorization"), form):
            return problem(401, "UNAUTHORIZED", "wrong or no login")
        token = f"secret-token-{next(self._serial)}"
        self._good[token] = form.get("scope", "")
        reply: dict[str, object] = dict.fromkeys(self.fields, token)
        if self.expires_in is not None:
            reply["expires_in"] = self.expires_in
        return Answer.whole(json.dumps(reply).encode(), Content_Type="application/json")

    def _knows(self, header: str | None, form: Mapping[str, str]) -> bool:
        if form.get("grant_type") == "refresh_token":
            return form.get("refresh_token") in self.refresh_tokens
        logins = {basic(user, password) for user, password in self.logins.items()}
        return header in logins or self.logins.get(form.get("username", "")) == form.get("password", "-")


@dataclass(frozen=True, slots=True)
class Basic:
    """A registry's gate that wants a user and a password."""

    user: str
    password: str
    wrong: int = 401  # what a wrong login is answered with; 403 has no challenge

    def admits(self, authorization: str | None, scope: str) -> bool:
        return authorization == basic(self.user, self.password)

    def challenges(self, authorization: str | None, scope: str) -> list[str]:
        return [] if authorization is not None and self.wrong == 403 else ['Basic realm="fake"']


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearer:
    """A registry's gate that wants a token from a token server; how its challenge is spelled can vary."""

    tokens: TokenServer
    service: str | None = "registry.test"
    quoted: bool = True
    scoped: bool = True  # whether the challenge names the scope
    beside: tuple[str, ...] = ()  # other challenges, as header lines of their own, before this one
    same_line: str = ""  # another challenge before this one, on its line
    realm_after_expiry: str | None = field(default=None)  # where a worthless token is sent; None: as ever

    def admits(self, authorization: str | None, scope: str) -> bool:
        kind, _, token = (authorization or "").partition(" ")
        return kind.lower() == "bearer" and self.tokens.grants(token, scope)

    def challenges(self, authorization: str | None, scope: str) -> list[str]:
        realm = self.tokens.realm
        if authorization is not None and self.realm_after_expiry is not None:
            realm = self.realm_after_expiry
        facts = {"realm": realm, "service": self.service, "scope": scope if self.scoped else None}
        mark = '"' if self.quoted else ""
        words = ",".join(f"{name}={mark}{value}{mark}" for name, value in facts.items() if value is not None)
        return [*self.beside, f"{self.same_line}Bearer {words}"]
