"""Names of upstreams, repositories and tags (OCI distribution-spec 1.1, "Pulling manifests").

A parsed name contains no `..`, no `%` and no empty component: it is safe in a URL or a key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from mirror.errors import NameInvalid, NameUnknown, TagInvalid
from mirror.oci.digest import Digest

DOCKER_HUB = "docker.io"
_DOCKER_HUB_ALIASES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_MAX_NAME_LENGTH = 255
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository of one upstream. All spellings of a repository are equal; equal names of two upstreams are not."""

    upstream: str = field(hash=False)
    name: str = field(hash=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", f"{self.upstream}/{self.name}")

    def __str__(self) -> str:
        return self.key


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag: a name in a repository that can move from one manifest to another."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Tag:
        """Parse *text*.

        Raises:
            TagInvalid: if it breaks the grammar of tags.
        """
        if _TAG.fullmatch(text) is None:
            raise TagInvalid(
                f"{_shown(text)} is neither a tag (at most 128 letters, digits, '_', '.', '-') nor a digest",
                found=_shown(text),
            )
        return cls(text)

    def __str__(self) -> str:
        return self.text


Reference = Tag | Digest


def parse_reference(text: str) -> Reference:
    """Parse a tag or a digest. Only digests contain a colon.

    Raises:
        TagInvalid, DigestInvalid: if it is neither.
    """
    return Digest.parse(text) if ":" in text else Tag.parse(text)


def parse_name(text: str) -> str:
    """Return *text* if it is a valid repository name.

    Raises:
        NameInvalid: if it breaks the grammar, or is longer than 255 characters.
    """
    if len(text) > _MAX_NAME_LENGTH or _NAME.fullmatch(text) is None:
        raise NameInvalid(
            f"{_shown(text)} is not a repository name: write components of lower-case letters and digits, joined by "
            f"'.', '_', '__' or '-' inside and '/' between, {_MAX_NAME_LENGTH} characters at most",
            found=_shown(text),
        )
    return text


def canonical_upstream(host: str) -> str:
    """Return the one spelling of an upstream: lower case; index.docker.io and registry-1.docker.io are docker.io."""
    host = host.lower()
    return DOCKER_HUB if host in _DOCKER_HUB_ALIASES else host


class Upstreams:
    """The names of the configured upstreams. The mirror never connects to any other."""

    def __init__(self, names: Iterable[str], *, default: str | None) -> None:
        self._names = frozenset(map(canonical_upstream, names))
        self._default = None if default is None else canonical_upstream(default)

    def knows(self, ns: str | None) -> bool:
        """Return whether *ns* names a configured upstream."""
        return ns is not None and canonical_upstream(ns) in self._names

    def repository(self, path: str, *, ns: str | None) -> tuple[Repository, bool]:
        """Resolve *path*, the part of a request target between `/v2/` and the endpoint.

        The upstream is the first component, if it names one (also against *ns*: the path is explicit), else *ns*, else
        the default upstream.

        Returns:
            the repository, and whether the path named its upstream.

        Raises:
            NameInvalid: if the name breaks the grammar.
            NameUnknown: if *ns* is not configured, or nothing names an upstream and there is no default.
        """
        first, slash, rest = path.partition("/")
        named = canonical_upstream(first) in self._names and bool(slash)
        if named:
            upstream, name = canonical_upstream(first), rest
        else:
            upstream, name = self._implied(ns), path
        parse_name(name)
        if upstream == DOCKER_HUB and "/" not in name:
            name = f"library/{name}"
        return Repository(upstream, name), named

    def _implied(self, ns: str | None) -> str:
        known = ", ".join(sorted(self._names))
        if ns is not None:
            upstream = canonical_upstream(ns)
            if upstream not in self._names:
                raise NameUnknown(
                    f"{not_configured(ns)}, or pull from it directly (configured: {known})",
                    ns=_shown(ns),
                )
            return upstream
        if self._default is None:
            raise NameUnknown(
                f"the request names no upstream and there is no default; begin the name with one of: {known}",
                known=known,
            )
        return self._default


def not_configured(host: str) -> str:
    """Return the message for an upstream that is not configured, with its fix."""
    shown = json.dumps(_cut(host), ensure_ascii=False)
    return f"the upstream {shown} is not configured: add [upstreams.{shown}] with its url to the configuration"


def _shown(text: str) -> str:
    return repr(_cut(text))


def _cut(text: str) -> str:
    """Return at most 80 characters of *text*, escaped first: one character can become 12."""
    escaped = text.encode("ascii", "backslashreplace").decode()
    return escaped if len(escaped) <= 80 else escaped[:80] + "…"
