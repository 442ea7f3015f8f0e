"""Platforms: what an image is for (OCI image-spec 1.1, "Image Index", platform)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mirror.errors import PlatformInvalid

_WORD = re.compile(r"[a-z0-9][a-z0-9_.-]{0,31}")
_ALIASES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armhf": "arm", "i386": "386"}
_IMPLIED = {("arm64", "v8"), ("amd64", "v1")}  # variants that an architecture has where none is named


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system, an architecture, and perhaps a variant of that (None: none in particular)."""

    os: str
    architecture: str
    variant: str | None = None

    @classmethod
    def parse(cls, text: str) -> Platform:
        """The platform that *text* spells: `linux/amd64`, `linux/arm/v7`.

        Raises:
            PlatformInvalid
        """
        words = text.lower().split("/")
        if not 2 <= len(words) <= 3 or not all(map(_WORD.fullmatch, words)):
            raise PlatformInvalid(f"{text[:80]!r} is no platform: write os/architecture, such as linux/amd64")
        os, architecture, *variant = words
        return cls.of(os, architecture, variant[0] if variant else None)

    @classmethod
    def of(cls, os: str, architecture: str, variant: str | None) -> Platform:
        """With one spelling for each architecture, and no variant where it goes without saying."""
        architecture = _ALIASES.get(architecture, architecture)
        return cls(os, architecture, None if (architecture, variant) in _IMPLIED else variant or None)

    def matches(self, wanted: Platform) -> bool:
        """Whether this is for who wants *wanted*; a variant counts only if one is wanted."""
        return (self.os, self.architecture) == (wanted.os, wanted.architecture) and (
            wanted.variant is None or self.variant == wanted.variant
        )

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))
