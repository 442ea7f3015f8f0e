"""Authentication of registries: Basic, and Bearer with a token service."""

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
    """Return the Authorization header of this login."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class TokenServer(Origin):
    """Issues bearer tokens at ``/token``, and knows which are still valid."""

    def __init__(self) -> None:
        super().__init__()
        self.logins: dict[str, str] = {}  # user -> password
        self.refresh_tokens: set[str] = set()  # empty, with no logins either: every request gets a token
        self.forms: list[dict[str, str]] = []  # the parameters received, from the query or the body
        self.fields: tuple[str, ...] = ("token",)  # the keys of the response that hold the token
        self.expires_in: int | None = 300  # seconds sent to the client; None: omitted. Only revoke() invalidates tokens
        self._good: dict[str, str] = {}  # token -> scope
        self._serial = count(1)

    @property
    def realm(self) -> str:
        """The realm that challenges name."""
        return f"{self.url}/token"

    @property
    def asked(self) -> list[Seen]:
        """All requests for tokens."""
        return self.journal.of(path="/token")

    def grants(self, token: str, scope: str) -> bool:
        """Return whether this token is (still) valid for that scope."""
        return self._good.get(token) == scope

    def revoke(self) -> None:
        """Invalidate all tokens issued so far."""
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
    """A registry's gate that requires a user and a password."""

    user: str
    password: str
    wrong: int = 401  # status for a wrong login; 403 has no challenge

    def admits(self, authorization: str | None, scope: str) -> bool:
        return authorization == basic(self.user, self.password)

    def challenges(self, authorization: str | None, scope: str) -> list[str]:
        return [] if authorization is not None and self.wrong == 403 else ['Basic realm="fake"']


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearer:
    """A registry's gate that requires a token of a token service; the spelling of its challenge can vary."""

    tokens: TokenServer
    service: str | None = "registry.test"
    quoted: bool = True
    scoped: bool = True  # whether the challenge names the scope
    beside: tuple[str, ...] = ()  # other challenges, as separate header lines, before this one
    same_line: str = ""  # another challenge before this one, on the same line
    realm_after_expiry: str | None = field(default=None)  # realm sent for an invalid token; None: unchanged

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
