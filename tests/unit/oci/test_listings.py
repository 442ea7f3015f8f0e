"""Tag lists and referrers indexes built from the cache: pages, queries and descriptors."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.oci.digest import Digest
from mirror.oci.listings import Query, of_type, referrers_index, tag_list
from mirror.oci.manifest import OCI_MANIFEST, Manifest
from tests.unit.texts import tags


@given(st.sets(tags, max_size=30), st.integers(1, 10))
def test_pages_contain_every_entry_once(entries: set[str], most: int) -> None:
    """The client follows the next-page queries from the first page."""
    pairs: tuple[tuple[str, str], ...] | None = (("n", str(most)),)
    found: list[str] = []
    while pairs is not None:
        query = Query.read(pairs)
        assert query is not None
        chosen, pairs = query.page(sorted(entries))
        assert len(chosen) == most or pairs is None
        found += chosen
    assert found == sorted(entries)


@pytest.mark.parametrize(
    ("pairs", "query"),
    [
        ([], Query()),
        ([("n", "3"), ("last", "v1")], Query(3, "v1")),
        ([("n", "3"), ("n", "4")], Query(3)),
        ([("n", "0")], Query(0)),
        ([("n", "-1")], Query()),
        ([("n", "\N{SUPERSCRIPT TWO}")], Query()),
        ([("n", "9" * 5000)], Query()),
        ([("artifactType", "a/b")], Query(artifact_type="a/b")),
        ([("next_page", "x")], None),
    ],
)
def test_query_parameters_parse(pairs: list[tuple[str, str]], query: Query | None) -> None:
    """An invalid number is ignored. A parameter that only the upstream understands yields None."""
    assert Query.read(pairs) == query


def manifest(content: dict[str, object]) -> Manifest:
    body = json.dumps(content).encode()
    return Manifest.read(Digest.of(body), body, OCI_MANIFEST)


CONFIG = {"mediaType": "x/config", "digest": str(Digest.of(b"")), "size": 0}


@pytest.mark.parametrize(
    ("content", "kind", "annotations"),
    [
        ({"artifactType": "x/sig", "config": CONFIG, "annotations": {"a": "b"}}, "x/sig", {"a": "b"}),
        ({"config": CONFIG}, "x/config", None),
        ({"artifactType": "", "config": CONFIG}, "x/config", None),
        ({"artifactType": 7, "annotations": [1]}, None, None),
    ],
)
def test_referrer_has_a_complete_descriptor(content: dict[str, object], kind: str | None, annotations: object) -> None:
    """It has its artifactType, or else its config's media type (image-spec 1.1, "Guidelines for Artifact Usage")."""
    one = manifest(content)
    (entry,) = json.loads(referrers_index([one]))["manifests"]
    assert (entry["digest"], entry["size"], entry["mediaType"]) == (str(one.digest), len(one.body), OCI_MANIFEST)
    assert entry.get("artifactType") == kind
    assert entry.get("annotations") == annotations
    if kind is not None:
        assert list(of_type([one], kind)) == [str(one.digest)]
    assert not of_type([one], "x/other")


def test_tag_list_names_its_repository() -> None:
    """Registries format it like this."""
    assert json.loads(tag_list("team/app", ["v1"])) == {"name": "team/app", "tags": ["v1"]}
