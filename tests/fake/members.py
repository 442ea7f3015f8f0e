"""A registry with users: the repositories that each user, and an anonymous client, may pull."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import count
from urllib.parse import parse_qsl

from tests.fake.answers import Answer
from tests.fake.journal import Seen
from tests.fake.origin import problem
from tests.fake.tokens import TokenServer, basic


@dataclass(slots=True)
class Members:
    """Users, and the repositories that each may pull (shell patterns); the empty name is the anonymous client."""

    passwords: dict[str, str] = field(default_factory=dict)
    rights: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def may_pull(self, user: str, scope: str) -> bool:
        """Return whether *user* may do what *scope* names; the empty scope is allowed to every user."""
        name = scope.removeprefix("repository:").removesuffix(":pull")
        return not scope or any(fnmatchcase(name, pattern) for pattern in self.rights.get(user, ()))

    def authenticate(self, authorization: str | None) -> str | None:
        """Return the user that a Basic header proves; "" without a header, None for a wrong password."""
        if authorization is None:
            return ""
        return next((user for user, word in self.passwords.items() if basic(user, word) == authorization), None)


@dataclass(frozen=True, slots=True)
class BasicMembers:
    """The gate of a registry that requires the password with each request."""

    members: Members

    def admits(self, authorization: str | None, scope: str) -> bool:
        user = self.members.authenticate(authorization)
        # Without a scope (/v2/) only authenticated clients are admitted: the 401 tells clients to log in.
        return bool(user or scope) and user is not None and self.members.may_pull(user, scope)

    def challenges(self, authorization: str | None, scope: str) -> list[str]:
        return ['Basic realm="members"']


class MembersTokens(TokenServer):
    """A token service whose tokens are valid for the repositories that their owner may pull."""

    def __init__(self) -> None:
        super().__init__()
        self.members = Members()
        self._owners: dict[str, str] = {}
        self._numbers = count(1)

    async def respond(self, seen: Seen, body: bytes) -> Answer:
        user = self.members.authenticate(seen.headers.get("Authorization"))
        form: Mapping[str, str] = dict(parse_qsl(seen.query or body.decode()))
        if user is None:
            return problem(401, "UNAUTHORIZED", "wrong login")
        token = f"members-token-{next(self._numbers)}"
        self._owners[token] = user if self.members.may_pull(user, form.get("scope", "")) else "-"
        return Answer.whole(f'{{"token":"{token}","expires_in":300}}'.encode(), Content_Type="application/json")

    def admits(self, authorization: str | None, scope: str) -> bool:
        kind, _, token = (authorization or "").partition(" ")
        owner = self._owners.get(token) if kind == "Bearer" else None
        return owner is not None and self.members.may_pull(owner, scope)

    def challenges(self, authorization: str | None, scope: str) -> list[str]:
        asked = f',scope="{scope}"' if scope else ""
        return [f'Bearer realm="{self.realm}",service="members"{asked}']
