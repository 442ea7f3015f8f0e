"""Holdings: the digests that one repository holds, in memory. They agree with the rows of the fact store."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from mirror.oci.digest import Digest
from mirror.storage.facts import HeldFact, ManifestFact, Proof


@dataclass(frozen=True, slots=True)
class _Root:
    """A manifest that has a row."""

    proof: Proof
    references: tuple[Digest, ...]


class Holdings:
    """The rows of one repository, and the references of its manifests.

    Attributes:
        inspected: the manifests whose subject is known.
        referrers: the inspected manifests by subject.
    """

    __slots__ = ("_blobs", "_references", "_roots", "inspected", "referrers")

    def __init__(self, rows: Mapping[Digest, HeldFact], manifests: Mapping[Digest, ManifestFact]) -> None:
        """Describe the digests that have a row; *manifests* has the facts of those that are manifests."""
        self._roots: dict[Digest, _Root] = {}
        self._blobs = {digest for digest, fact in rows.items() if not fact.is_manifest}
        self._references = Counter[Digest]()  # by digest, how many roots reference it
        self.inspected = set[Digest]()
        self.referrers = defaultdict[Digest, set[Digest]](set)
        for digest, fact in rows.items():
            if fact.is_manifest:
                known = manifests.get(digest)
                self.add_manifest(digest, fact.proof, () if known is None else known.references)

    def __contains__(self, digest: Digest) -> bool:
        """Return whether the repository holds *digest*: by its row, or because a manifest references it."""
        return digest in self._roots or digest in self._references or digest in self._blobs

    @property
    def manifests(self) -> AbstractSet[Digest]:
        """The manifests that have a row."""
        return self._roots.keys()

    def has_row(self, digest: Digest) -> bool:
        return digest in self._roots or digest in self._blobs

    def proof(self, digest: Digest) -> Proof | None:
        """Return the proof in the row of a manifest; None if it has no row."""
        root = self._roots.get(digest)
        return None if root is None else root.proof

    def add_manifest(self, digest: Digest, proof: Proof, references: Iterable[Digest]) -> None:
        self._remove(digest)
        root = self._roots[digest] = _Root(proof, tuple(references))
        self._references.update(root.references)

    def add_blob(self, digest: Digest) -> None:
        self._blobs.add(digest)

    def remove(self, digests: AbstractSet[Digest]) -> None:
        """Remove the rows of these digests. Takes time for the smaller of both sets."""
        for digest in (digests & self._roots.keys()) | (digests & self._blobs):
            self._remove(digest)

    def _remove(self, digest: Digest) -> None:
        self._blobs.discard(digest)
        self.inspected.discard(digest)
        root = self._roots.pop(digest, None)
        if root is not None:
            self._references.subtract(root.references)
            for reference in root.references:
                if self._references[reference] <= 0:
                    del self._references[reference]
