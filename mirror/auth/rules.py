"""Access: who asks, and what that one may pull. Rules in, a verdict out; no I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache

from mirror.errors import Denied
from mirror.oci.names import DOCKER_HUB, Repository, canonical_upstream

ANONYMOUS = "anonymous"  # in rules, whoever comes where nobody is asked for a name; nobody else may have it
_LONGEST_USER = 255
_VERDICTS = 8192  # of users and repositories, kept at hand
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as far as that is known.

    Attributes:
        user: the name that was proved, by a password or a certificate; None where nobody was asked for one.
    """

    user: str | None

    @property
    def name(self) -> str:
        """The name by which rules know this one."""
        return ANONYMOUS if self.user is None else self.user


ANYBODY = Caller(None)


def is_user(name: str) -> bool:
    """Whether *name* can be a user's: it stands in the log and in messages, and never is that of the nameless."""
    return 0 < len(name) <= _LONGEST_USER and name.isprintable() and name == name.strip() and name != ANONYMOUS


@dataclass(frozen=True, slots=True)
class Rule:
    """Users and repositories, as globs in a shell's manner (`*` goes over slashes too), and what holds for them."""

    users: tuple[str, ...]
    repositories: tuple[str, ...]
    allow: bool


class Rules:
    """The rules in force, in their order. The first that matches decides; what none matches is denied."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = tuple(
            (_any_of(rule.users), _any_of(map(canonical_pattern, rule.repositories)), rule.allow) for rule in rules
        )
        self._verdict: Callable[[str, str], tuple[bool, int | None]] = lru_cache(_VERDICTS)(self._decide)

    def check(self, caller: Caller, repository: Repository) -> None:
        """Lets pass who may pull from *repository*.

        Raises:
            Denied
        """
        allowed, number = self._verdict(caller.name, repository.key)
        if allowed:
            return
        who = "whoever has no login" if caller.user is None else f"user {caller.user!r}"
        why = "no rule in [[access]] allows it" if number is None else f"rule {number} in [[access]] denies it"
        raise Denied(
            f"{who} may not pull {repository} through this mirror: {why}; "
            f"whoever runs the mirror can allow it in its configuration",
            user=caller.name,
            repository=str(repository),
        )

    def _decide(self, user: str, repository: str) -> tuple[bool, int | None]:
        """Whether it is allowed, and the number of the rule that says so, from 1; None where none does."""
        for number, (users, repositories, allow) in enumerate(self._rules, start=1):
            if users.match(user) and repositories.match(repository):
                return allow, number
        return False, None


def canonical_pattern(pattern: str) -> str:
    """*pattern* in the spelling of repositories: small letters, one name for docker.io, library/ where it belongs."""
    host, slash, name = pattern.lower().partition("/")
    host = canonical_upstream(host)
    if host == DOCKER_HUB and name and "/" not in name and not _GLOB.search(name):
        name = f"library/{name}"
    return host + slash + name


def can_match(pattern: str, upstreams: Container[str]) -> bool:
    """Whether a pattern of repositories begins with one of *upstreams* (canonical names), or leaves that to a glob."""
    host, _, name = canonical_pattern(pattern).partition("/")
    return bool(_GLOB.search(host)) or (host in upstreams and bool(name))


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(translate, patterns)))
