"""Parser of image names and tag patterns, as typed on the command line.

    alpine                              docker.io/library/alpine:latest, expanded as docker does
    quay.io/org/app:v1                  a tag
    ghcr.io/org/app@sha256:…            a digest; a tag before it is ignored
    ghcr.io/org/app:v1.*                all matching tags (shell glob, case-sensitive)
    ghcr.io/org/app:v1.*=3              the three newest of those, by version
    ghcr.io/org/app:latest-semver       the newest version without pre-releases; =N for the newest N

A tag can contain neither `=` nor `*`, so every name has one meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mirror.errors import NameUnknown, TagInvalid
from mirror.oci.digest import Digest
from mirror.oci.names import DOCKER_HUB, Reference, Repository, Tag, Upstreams, not_configured
from mirror.oci.versions import is_stable, newest

GLOB = re.compile(r"[*?\[]")
_PATTERN = re.compile(r"[A-Za-z0-9_.*?\[\]!^-]{1,256}")
_NEWEST = "latest-semver"
_MAX_COUNT = 10_000


@dataclass(frozen=True, slots=True)
class Image:
    """One image: a manifest or index of a repository, by tag or digest."""

    repository: Repository
    reference: Reference

    def __str__(self) -> str:
        return f"{self.repository}{'@' if isinstance(self.reference, Digest) else ':'}{self.reference}"


@dataclass(frozen=True, slots=True)
class Selection:
    """A selection of a repository's tags.

    Attributes:
        pattern: the glob that a tag must match.
        count: the number of newest versions to select; None for all matching tags.
        stable: whether pre-releases are excluded.
    """

    repository: Repository
    pattern: str
    count: int | None
    stable: bool = False

    def chosen(self, tags: Iterable[str]) -> list[Image]:
        """Return the selected images: newest version first if *count* is set, else sorted by tag."""
        matching = [tag for tag in tags if fnmatchcase(tag, self.pattern) and not (self.stable and not is_stable(tag))]
        chosen = sorted(set(matching)) if self.count is None else newest(matching, self.count)
        return [Image(self.repository, Tag.parse(tag)) for tag in chosen]

    def __str__(self) -> str:
        name = _NEWEST if self.stable else self.pattern
        return f"{self.repository}:{name}" + ("" if self.count is None else f"={self.count}")


Named = Image | Selection


def parse_image(text: str, upstreams: Upstreams) -> Named:
    """Parse the name of an image or a selection of images.

    Raises:
        NameInvalid, TagInvalid, DigestInvalid: if a part breaks its grammar.
        NameUnknown: if the upstream is not configured.
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
        raise TagInvalid(f"{tag[:80]!r} is not a tag pattern: write v1.*, v1.*=3 or {_NEWEST}")
    if equals and not (number.isascii() and number.isdecimal() and 0 < int(number[:9]) <= _MAX_COUNT):
        raise TagInvalid(f"{tag[:80]!r}: write a number from 1 to {_MAX_COUNT} after =, the count of newest versions")
    if pattern == _NEWEST:
        return Selection(repository, "*", int(number) if equals else 1, stable=True)
    return Selection(repository, pattern, int(number) if equals else None)


def _split(name: str) -> tuple[str, str | None]:
    """Return the part before the tag, and the tag. A colon before the last slash belongs to a port."""
    colon = name.rfind(":")
    return (name, None) if colon < 0 or "/" in name[colon:] else (name[:colon], name[colon + 1 :])


def _repository(path: str, upstreams: Upstreams) -> Repository:
    """Resolve *path* as docker does: a first component with a dot or a colon is a registry, else Docker Hub."""
    host, slash, _ = path.partition("/")
    is_host = bool(slash) and ("." in host or ":" in host or host == "localhost")
    if is_host and not upstreams.knows(host):
        raise NameUnknown(not_configured(host), registry=host[:80])
    repository, _ = upstreams.repository(path if is_host else f"{DOCKER_HUB}/{path}", ns=None)
    return repository
