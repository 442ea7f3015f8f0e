"""Tag lists and referrers indexes built from the cache (distribution-spec 1.1, "Listing Tags", "Listing Referrers").

They are served when the upstream can't be asked, or offline. An upstream's own lists pass through unchanged.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mirror.oci.digest import Digest
from mirror.oci.manifest import OCI_INDEX, Manifest, json_object

_MAX_ENTRIES = 1000  # per page, as Docker Hub and distribution limit it
_KNOWN = frozenset({"n", "last", "artifactType"})


@dataclass(frozen=True, slots=True)
class Query:
    """The query of a list request.

    Attributes:
        page_size: the maximum number of entries in a page.
        last: the last entry of the previous page.
        artifact_type: the artifact type to which referrers are filtered; None for all.
    """

    page_size: int = _MAX_ENTRIES
    last: str = ""
    artifact_type: str | None = None

    @classmethod
    def read(cls, pairs: Iterable[tuple[str, str]]) -> Query | None:
        """Parse query parameters. Return None if one is unknown: only the upstream can answer it."""
        values: dict[str, str] = {}
        for name, value in pairs:
            if name not in _KNOWN:
                return None
            values.setdefault(name, value)
        n = values.get("n", "")
        page_size = min(int(n[:9]), _MAX_ENTRIES) if n.isascii() and n.isdecimal() else _MAX_ENTRIES
        return cls(page_size, values.get("last", ""), values.get("artifactType"))

    def page(self, entries: Sequence[str]) -> tuple[Sequence[str], tuple[tuple[str, str], ...] | None]:
        """Return the page of the sorted *entries*, and the query of the next page (None after the last)."""
        begin = bisect_right(entries, self.last)
        chosen = entries[begin : begin + self.page_size]
        if not chosen or begin + len(chosen) == len(entries):
            return chosen, None
        kind = () if self.artifact_type is None else (("artifactType", self.artifact_type),)
        return chosen, (("n", str(self.page_size)), ("last", chosen[-1]), *kind)


def tag_list(name: str, tags: Sequence[str]) -> bytes:
    """Return the JSON of a tag list."""
    return json.dumps({"name": name, "tags": list(tags)}).encode()


def referrers_index(manifests: Iterable[Manifest]) -> bytes:
    """Return the JSON of a referrers list: an index with a descriptor for each manifest."""
    entries = [_descriptor(manifest) for manifest in manifests]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def artifact_type(manifest: Manifest) -> str | None:
    """Return the artifact type of *manifest*: its `artifactType`, or else the media type of its config."""
    match json_object(manifest.body):
        case {"artifactType": str(value)} if value:
            return value
        case {"config": {"mediaType": str(value)}} if value:
            return value
    return None


def of_type(manifests: Iterable[Manifest], wanted: str | None) -> dict[str, Manifest]:
    """Return the manifests by digest, sorted; only those of the artifact type *wanted*, unless it is None."""
    chosen = (one for one in manifests if wanted is None or artifact_type(one) == wanted)
    return dict(sorted((str(one.digest), one) for one in chosen))


def subject_tag(subject: Digest) -> str:
    """Return the tag under which the referrers of *subject* are listed as a fallback ("Referrers Tag Schema")."""
    return f"{subject.algorithm}-{subject.hex}"


def _descriptor(manifest: Manifest) -> dict[str, object]:
    kind, annotations = artifact_type(manifest), json_object(manifest.body).get("annotations")
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
