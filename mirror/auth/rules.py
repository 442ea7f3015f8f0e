"""Access rules: which users may pull from which repositories. Pure, without I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache

from mirror.errors import Denied
from mirror.oci.names import DOCKER_HUB, Repository, canonical_upstream

ANONYMOUS = "anonymous"  # in rules, every client of a mirror without users; no user may have this name
_MAX_USER_LENGTH = 255
_MAX_VERDICTS = 8192  # cached, one for each pair of user and repository
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated client behind a request.

    Attributes:
        user: the name proved by a password or a client certificate; None if the mirror requires neither.
    """

    user: str | None

    @property
    def name(self) -> str:
        """The user name that access rules match."""
        return ANONYMOUS if self.user is None else self.user


ANONYMOUS_CALLER = Caller(None)


def is_user(name: str) -> bool:
    """Return whether *name* is a valid user name: printable, for logs and messages, and not `anonymous`."""
    return 0 < len(name) <= _MAX_USER_LENGTH and name.isprintable() and name == name.strip() and name != ANONYMOUS


@dataclass(frozen=True, slots=True)
class Rule:
    """An access rule: globs of users and repositories (`*` also matches slashes), and whether they may pull."""

    users: tuple[str, ...]
    repositories: tuple[str, ...]
    allow: bool


class Rules:
    """The access rules in order. The first match decides; a pull that no rule matches is denied."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = tuple(
            (_any_of(rule.users), _any_of(map(canonical_pattern, rule.repositories)), rule.allow) for rule in rules
        )
        self._verdict: Callable[[str, str], tuple[bool, int | None]] = lru_cache(_MAX_VERDICTS)(self._decide)

    def require_allowed(self, caller: Caller, repository: Repository) -> None:
        """Raise Denied unless a rule allows *caller* to pull from *repository*."""
        allowed, number = self._verdict(caller.name, repository.key)
        if allowed:
            return
        name = "a client without a login" if caller.user is None else f"user {caller.user!r}"
        why = "no rule in [[access]] allows it" if number is None else f"rule {number} in [[access]] denies it"
        raise Denied(
            f"{name} may not pull {repository} through this mirror: {why}; "
            f"the operator of the mirror can allow it in the configuration",
            user=caller.name,
            repository=str(repository),
        )

    def _decide(self, user: str, repository: str) -> tuple[bool, int | None]:
        """Return the verdict and the number of the rule that decided, counted from 1; None if no rule matched."""
        for number, (users, repositories, allow) in enumerate(self._rules, start=1):
            if users.match(user) and repositories.match(repository):
                return allow, number
        return False, None


def canonical_pattern(pattern: str) -> str:
    """Return *pattern* as repositories are spelled: lower case, one name for docker.io, `library/` filled in."""
    host, slash, name = pattern.lower().partition("/")
    host = canonical_upstream(host)
    if host == DOCKER_HUB and name and "/" not in name and not _GLOB.search(name):
        name = f"library/{name}"
    return host + slash + name


def can_match(pattern: str, upstreams: Container[str]) -> bool:
    """Return whether *pattern* begins with one of *upstreams* (canonical names) or with a glob."""
    host, _, name = canonical_pattern(pattern).partition("/")
    return bool(_GLOB.search(host)) or (host in upstreams and bool(name))


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(translate, patterns)))
