"""Images: how people name them, one, or many by a pattern of tags.

    alpine                              docker.io/library/alpine:latest, as docker has it
    quay.io/org/app:v1                  a tag
    ghcr.io/org/app@sha256:…            a digest; a tag before it says only what it was
    ghcr.io/org/app:v1.*                all tags that match (as a shell would, case counts)
    ghcr.io/org/app:v1.*=3              of those the three newest, by version
    ghcr.io/org/app:latest-semver       the newest version that is no pre-release; =N for the newest N

Neither `=` nor `*` can be in a tag, so that no image's name means two things.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mirror.errors import NameUnknown, TagInvalid
from mirror.oci.digest import Digest
from mirror.oci.names import DOCKER_HUB, Reference, Repository, Tag, Upstreams
from mirror.oci.versions import is_stable, newest

GLOB = re.compile(r"[*?\[]")
_PATTERN = re.compile(r"[A-Za-z0-9_.*?\[\]!^-]{1,256}")
_NEWEST = "latest-semver"
_MOST = 10_000


@dataclass(frozen=True, slots=True)
class Image:
    """One image, or what stands for several: a manifest or index of a repository, by tag or digest."""

    repository: Repository
    reference: Reference

    def __str__(self) -> str:
        return f"{self.repository}{'@' if isinstance(self.reference, Digest) else ':'}{self.reference}"


@dataclass(frozen=True, slots=True)
class Selection:
    """Some of a repository's tags.

    Attributes:
        pattern: what a tag has to match.
        count: how many, the newest versions first; None for all.
        stable: whether pre-releases are left out.
    """

    repository: Repository
    pattern: str
    count: int | None
    stable: bool = False

    def chosen(self, tags: Iterable[str]) -> list[Image]:
        """Those of a repository's *tags* that are meant; in the order of version, or else of the alphabet."""
        matching = [tag for tag in tags if fnmatchcase(tag, self.pattern) and not (self.stable and not is_stable(tag))]
        chosen = sorted(set(matching)) if self.count is None else newest(matching, self.count)
        return [Image(self.repository, Tag.parse(tag)) for tag in chosen]

    def __str__(self) -> str:
        name = _NEWEST if self.stable else self.pattern
        return f"{self.repository}:{name}" + ("" if self.count is None else f"={self.count}")


Named = Image | Selection


def parse_image(text: str, upstreams: Upstreams) -> Named:
    """The image or images that *text* names.

    Raises:
        NameInvalid, TagInvalid, DigestInvalid: it breaks the grammar.
        NameUnknown: its registry is not configured.
    """
    name, at, digest = text.strip().partition("@")
    path, tag = _split(name)
    repository = _repository(path, upstreams)
    if at:
        return Image(repository, Digest.parse(digest))
    if tag is None:
        return Image(repository, Tag("latest"))
    pattern, equals, number = tag.partition("=")
    if not equals and pattern != _NEWEST and not GLOB.search(pattern):
        return Image(repository, Tag.parse(pattern))
    if pattern != _NEWEST and _PATTERN.fullmatch(pattern) is None:
        raise TagInvalid(f"{tag[:80]!r} is no pattern of tags: write it as v1.*, v1.*=3 or {_NEWEST}")
    if equals and not (number.isascii() and number.isdecimal() and 0 < int(number[:9]) <= _MOST):
        raise TagInvalid(f"{tag[:80]!r}: after = comes how many of the newest, 1 to {_MOST}")
    if pattern == _NEWEST:
        return Selection(repository, "*", int(number) if equals else 1, stable=True)
    return Selection(repository, pattern, int(number) if equals else None)


def _split(name: str) -> tuple[str, str | None]:
    """The part before the tag, and the tag; a colon before the last slash is a port's."""
    colon = name.rfind(":")
    return (name, None) if colon < 0 or "/" in name[colon:] else (name[:colon], name[colon + 1 :])


def _repository(path: str, upstreams: Upstreams) -> Repository:
    """As docker reads names: with a point or a colon before the first slash is a registry, all else is Docker Hub's."""
    host, slash, _ = path.partition("/")
    is_host = bool(slash) and ("." in host or ":" in host or host == "localhost")
    if is_host and not upstreams.knows(host):
        raise NameUnknown(
            f'the registry {host[:80]!r} is not configured: add [upstreams."{host[:80]}"] to the configuration',
            registry=host[:80],
        )
    repository, _ = upstreams.repository(path if is_host else f"{DOCKER_HUB}/{path}", ns=None)
    return repository
