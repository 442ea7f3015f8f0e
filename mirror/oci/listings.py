"""Lists made of what is known here (distribution-spec 1.1, "Listing Tags", "Listing Referrers").

Upstream's own pass through as they are. These stand in where upstream is not to be asked, or can't be.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mirror.oci.digest import Digest
from mirror.oci.manifest import OCI_INDEX, Manifest

_MOST = 1000  # entries of a page, as Docker Hub and distribution have it
_OWN = frozenset({"n", "last", "artifactType"})


@dataclass(frozen=True, slots=True)
class Query:
    """What of a list is wanted.

    Attributes:
        most: entries of a page.
        last: the last entry of the page before.
        artifact_type: of referrers, which; None for all.
    """

    most: int = _MOST
    last: str = ""
    artifact_type: str | None = None

    @classmethod
    def read(cls, pairs: Iterable[tuple[str, str]]) -> Query | None:
        """The query of these parameters; None where one of them means something to upstream only."""
        said: dict[str, str] = {}
        for name, value in pairs:
            if name not in _OWN:
                return None
            said.setdefault(name, value)
        n = said.get("n", "")
        most = min(int(n[:9]), _MOST) if n.isascii() and n.isdecimal() else _MOST
        return cls(most, said.get("last", ""), said.get("artifactType"))

    def page(self, entries: Sequence[str]) -> tuple[Sequence[str], tuple[tuple[str, str], ...] | None]:
        """Those of the sorted *entries* that are on this page, and the query of the page after it (None: the last)."""
        begin = bisect_right(entries, self.last)
        chosen = entries[begin : begin + self.most]
        if not chosen or begin + len(chosen) == len(entries):
            return chosen, None
        kind = () if self.artifact_type is None else (("artifactType", self.artifact_type),)
        return chosen, (("n", str(self.most)), ("last", chosen[-1]), *kind)


def tag_list(name: str, tags: Sequence[str]) -> bytes:
    """The JSON of a list of tags."""
    return json.dumps({"name": name, "tags": list(tags)}).encode()


def referrers_index(manifests: Iterable[Manifest]) -> bytes:
    """The JSON of a list of referrers: an index, with a descriptor for each of *manifests*."""
    entries = [_descriptor(manifest) for manifest in manifests]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def artifact_type(manifest: Manifest) -> str | None:
    """What a manifest is an artifact of; of one that doesn't say so, its config's media type."""
    content = _content(manifest)
    match content:
        case {"artifactType": str(told)} if told:
            return told
        case {"config": {"mediaType": str(told)}} if told:
            return told
    return None


def of_type(manifests: Iterable[Manifest], wanted: str | None) -> dict[str, Manifest]:
    """Manifests by their digests, in order; those of one artifact type only, if one is *wanted*."""
    chosen = (one for one in manifests if wanted is None or artifact_type(one) == wanted)
    return dict(sorted((str(one.digest), one) for one in chosen))


def subject_tag(subject: Digest) -> str:
    """The tag that stands in for a list of what refers to *subject* ("Referrers Tag Schema")."""
    return f"{subject.algorithm}-{subject.hex}"


def _descriptor(manifest: Manifest) -> dict[str, object]:
    kind, annotations = artifact_type(manifest), _content(manifest).get("annotations")
    found: dict[str, object] = {
        "mediaType": manifest.head.media_type,
        "digest": str(manifest.digest),
        "size": len(manifest.body),
    }
    if kind is not None:
        found["artifactType"] = kind
    if isinstance(annotations, dict):
        found["annotations"] = annotations
    return found


def _content(manifest: Manifest) -> dict[str, object]:
    try:
        content: object = json.loads(manifest.body)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
