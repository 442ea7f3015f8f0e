"""Platforms of images: os/architecture/variant (OCI image-spec 1.1, "Image Index", platform)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mirror.errors import PlatformInvalid

_WORD = re.compile(r"[a-z0-9][a-z0-9_.-]{0,31}")
_ALIASES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armhf": "arm", "i386": "386"}
_DEFAULT_VARIANTS = {("arm64", "v8"), ("amd64", "v1")}  # equal to no variant


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system, an architecture and a variant of it (None: unspecified)."""

    os: str
    architecture: str
    variant: str | None = None

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Parse a platform such as `linux/amd64` or `linux/arm/v7`.

        Raises:
            PlatformInvalid: if it is not os/architecture or os/architecture/variant.
        """
        words = text.lower().split("/")
        if not 2 <= len(words) <= 3 or not all(map(_WORD.fullmatch, words)):
            raise PlatformInvalid(f"{text[:80]!r} is not a platform: write os/architecture, such as linux/amd64")
        os, architecture, *variant = words
        return cls.of(os, architecture, variant[0] if variant else None)

    @classmethod
    def of(cls, os: str, architecture: str, variant: str | None) -> Platform:
        """Return the canonical platform: one spelling for each architecture, no default variant."""
        architecture = _ALIASES.get(architecture, architecture)
        return cls(os, architecture, None if (architecture, variant) in _DEFAULT_VARIANTS else variant or None)

    def matches(self, wanted: Platform) -> bool:
        """Return whether content for this platform suits *wanted*. The variant counts only if *wanted* has one."""
        return (self.os, self.architecture) == (wanted.os, wanted.architecture) and (
            wanted.variant is None or self.variant == wanted.variant
        )

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))
