"""A registry with members: what each of them, and nobody in particular, may pull."""

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
    """Who there is, and the repositories that each may pull (shell patterns); the empty name is nobody's."""

    passwords: dict[str, str] = field(default_factory=dict)
    rights: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def may(self, user: str, scope: str) -> bool:
        """Whether *user* may do what *scope* says; nothing in particular, everybody that there is may."""
        name = scope.removeprefix("repository:").removesuffix(":pull")
        return not scope or any(fnmatchcase(name, pattern) for pattern in self.rights.get(user, ()))

    def named(self, authorization: str | None) -> str | None:
        """The user that a Basic header proves; the empty one for no header; None for a wrong one."""
        if authorization is None:
            return ""
        return next((user for user, word in self.passwords.items() if basic(user, word) == authorization), None)


@dataclass(frozen=True, slots=True)
class BasicMembers:
    """The gate of a registry that wants the password with each request."""

    members: Members

    def admits(self, authorization: str | None, scope: str) -> bool:
        user = self.members.named(authorization)
        # Nothing in particular (/v2/) is for those only who show who they are: that is how clients learn to do so.
        return bool(user or scope) and user is not None and self.members.may(user, scope)

    def challenges(self, authorization: str | None, scope: str) -> list[str]:
        return ['Basic realm="members"']


class MembersTokens(TokenServer):
    """Gives tokens that are good for what their owner may."""

    def __init__(self) -> None:
        super().__init__()
        self.members = Members()
        self._owners: dict[str, str] = {}
        self._numbers = count(1)

    async def respond(self, seen: Seen, body: bytes) -> Answer:
        user = self.members.named(seen.headers.get("Authorization"))
        form: Mapping[str, str] = dict(parse_qsl(seen.query or body.decode()))
        if user is None:
            return problem(401, "UNAUTHORIZED", "wrong login")
        token = f"members-token-{next(self._numbers)}"
        self._owners[token] = user if self.members.may(user, form.get("scope", "")) else "-"
        return Answer.whole(f'{{"token":"{token}","expires_in":300}}'.encode(), Content_Type="application/json")

    def admits(self, authorization: str | None, scope: str) -> bool:
        kind, _, token = (authorization or "").partition(" ")
        owner = self._owners.get(token) if kind == "Bearer" else None
        return owner is not None and self.members.may(owner, scope)

    def challenges(self, authorization: str | None, scope: str) -> list[str]:
        asked = f',scope="{scope}"' if scope else ""
        return [f'Bearer realm="{self.realm}",service="members"{asked}']
