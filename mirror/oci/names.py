"""Names: of upstreams, repositories and tags (OCI distribution-spec 1.1, "Pulling manifests").

A name that parsed holds no `..`, no `%`, no empty component: it can go into a URL or a key as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from mirror.errors import NameInvalid, NameUnknown, TagInvalid
from mirror.oci.digest import Digest

DOCKER_HUB = "docker.io"
_DOCKER_HUB_ALIASES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_MOST_CHARACTERS = 255
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository of one upstream. All spellings of an image make equal values; equal names of two upstreams don't."""

    upstream: str = field(hash=False)
    name: str = field(hash=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", f"{self.upstream}/{self.name}")

    def __str__(self) -> str:
        return self.key


@dataclass(frozen=True, slots=True)
class Tag:
    """A name within a repository that can move from one manifest to another."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Tag:
        """The tag that *text* spells.

        Raises:
            TagInvalid: it breaks the grammar of tags.
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
    """The tag or digest that *text* spells: only digests hold a colon.

    Raises:
        TagInvalid, DigestInvalid: it is neither.
    """
    return Digest.parse(text) if ":" in text else Tag.parse(text)


def parse_name(text: str) -> str:
    """*text*, if it is the name of a repository.

    Raises:
        NameInvalid: it breaks the grammar, or is longer than 255 characters.
    """
    if len(text) > _MOST_CHARACTERS or _NAME.fullmatch(text) is None:
        raise NameInvalid(
            f"{_shown(text)} is not the name of a repository: components of lower-case letters and digits, joined by "
            f"'.', '_', '__' or '-' inside and '/' between, {_MOST_CHARACTERS} characters at most",
            found=_shown(text),
        )
    return text


def canonical_upstream(host: str) -> str:
    """One spelling for each upstream: docker.io has three (index.docker.io, registry-1.docker.io)."""
    host = host.lower()
    return DOCKER_HUB if host in _DOCKER_HUB_ALIASES else host


class Upstreams:
    """The upstreams that are configured, by name: a closed world. What is not in it is never dialled."""

    def __init__(self, names: Iterable[str], *, default: str | None) -> None:
        self._names = frozenset(map(canonical_upstream, names))
        self._default = None if default is None else canonical_upstream(default)

    def knows(self, ns: str | None) -> bool:
        """Whether *ns* names an upstream."""
        return ns is not None and canonical_upstream(ns) in self._names

    def repository(self, path: str, *, ns: str | None) -> tuple[Repository, bool]:
        """The repository that a client means by *path*, the part of its request between `/v2/` and the endpoint.

        A first component that names an upstream decides (also against *ns*: whoever wrote the path meant it), then
        *ns*, then the default upstream.

        Returns:
            the repository, and whether the path named its upstream.

        Raises:
            NameInvalid: the name breaks the grammar.
            NameUnknown: *ns* is not configured, or nothing names an upstream and there is no default one.
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
                    f"no upstream {_shown(ns)} is configured here (known: {known}); "
                    f"add it to the mirror's configuration, or pull it directly",
                    ns=_shown(ns),
                )
            return upstream
        if self._default is None:
            raise NameUnknown(
                f"the request names no upstream and none is the default; begin the name with one of: {known}",
                known=known,
            )
        return self._default


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "…")
