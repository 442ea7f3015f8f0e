"""Digests: the names of content (OCI image-spec 1.1, "Digests")."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from mirror.errors import DigestInvalid, DigestMismatch, SizeMismatch

ALGORITHMS = ("sha256", "sha512")
_DIGEST = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")


@dataclass(frozen=True, slots=True)
class Digest:
    """The name of a blob: an algorithm and the lower-case hex of its hash."""

    algorithm: str
    hex: str

    def __hash__(self) -> int:
        return hash(self.hex)  # a string's hash is kept with it; that of a tuple would be made anew each time

    @classmethod
    def parse(cls, text: str) -> Digest:
        """The digest that *text* spells.

        Raises:
            DigestInvalid: another algorithm, upper-case hex, a wrong length, anything else.
        """
        found = _DIGEST.fullmatch(text)
        if found is None:
            shown = text if len(text) <= 80 else text[:80] + "…"
            raise DigestInvalid(
                f"{shown!r} is not a digest: sha256:<64 lower-case hex digits> or sha512:<128> is understood here",
                found=shown,
            )
        return cls(found[1] or found[3], found[2] or found[4])

    @classmethod
    def parse_or_none(cls, text: object) -> Digest | None:
        """Return the digest that *text* spells; None if it is not text, or not a digest."""
        found = _DIGEST.fullmatch(text) if isinstance(text, str) else None
        return None if found is None else cls(found[1] or found[3], found[2] or found[4])

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of *content*."""
        return cls(algorithm, hashlib.new(algorithm, content).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


class Verifier:
    """Takes content piece by piece, and says at its end whether it is what its digest promises."""

    def __init__(self, digest: Digest) -> None:
        self._digest = digest
        self._hash = hashlib.new(digest.algorithm)
        self.size = 0

    def copy(self) -> Verifier:
        """Another one that has taken the same content, to go on by itself."""
        copied = Verifier(self._digest)
        copied._hash, copied.size = self._hash.copy(), self.size
        return copied

    @property
    def is_complete(self) -> bool:
        """Whether what was fed is the whole content."""
        return self._hash.hexdigest() == self._digest.hex

    def feed(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Takes the next pieces, in order. Slow for much content: 0.6 s a GiB, during which the GIL is free."""
        for piece in pieces:
            self._hash.update(piece)
            self.size += len(piece)

    def finish(self, size: int | None) -> None:
        """Accepts what was fed as the whole content.

        Args:
            size: bytes that were announced; None where nobody announced any.

        Raises:
            SizeMismatch, DigestMismatch: the content has another size or digest.
        """
        if size is not None and self.size != size:
            raise SizeMismatch(
                f"{self._digest} came with {self.size} bytes where {size} were announced; it is not kept",
                digest=str(self._digest),
                bytes=self.size,
                announced=size,
            )
        if not self.is_complete:
            raise DigestMismatch(
                f"the bytes that came for {self._digest} have the digest "
                f"{self._digest.algorithm}:{self._hash.hexdigest()}; they are not kept",
                digest=str(self._digest),
                bytes=self.size,
            )
