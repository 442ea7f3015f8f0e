"""index.json: rendered entries are parsed again, and nothing that a file contains raises or is believed wrongly."""

import json

import orjson
from hypothesis import given
from hypothesis import strategies as st

from mirror.oci.digest import Digest
from mirror.oci.image_names import Image
from mirror.oci.names import Repository, Tag
from mirror.storage.facts import parse_image
from mirror.storage.index_json import IndexEntry, parse, render

DIGESTS = [Digest.of(bytes([number]), algorithm) for number in range(3) for algorithm in ("sha256", "sha512")]
INDEX = "application/vnd.oci.image.index.v1+json"
NAME = "org.opencontainers.image.ref.name"

repositories = st.builds(
    Repository,
    st.sampled_from(["docker.io", "localhost:5000", "a.b-c.example:1"]),
    st.from_regex(r"[a-z0-9]{1,5}(/[a-z0-9]{1,5}){0,2}", fullmatch=True),
)
tags = st.builds(Tag, st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}", fullmatch=True))
times = st.floats(0, 2**40).map(lambda time: round(time, 3))


@st.composite
def entries(draw: st.DrawFn) -> IndexEntry:
    digest = draw(st.sampled_from(DIGESTS))
    reference = draw(tags | st.just(digest))
    return IndexEntry(
        Image(draw(repositories), reference),
        digest,
        draw(st.sampled_from([INDEX, "a/b"])),
        draw(st.integers(0, 2**40)),
        draw(times) if isinstance(reference, Tag) and draw(st.booleans()) else None,
        draw(st.booleans()),
        draw(st.booleans()),
    )


@given(st.lists(entries(), max_size=5))
def test_parse_reverses_render(found: list[IndexEntry]) -> None:
    """All of it, in the order of names."""
    assert parse(render(found)) == sorted(found, key=lambda entry: str(entry.image))


@given(entries())
def test_it_is_an_image_index(entry: IndexEntry) -> None:
    """It is as the specification defines it, with the full name where other programs look for it."""
    document = json.loads(render([entry]))
    assert (document["schemaVersion"], document["mediaType"]) == (2, INDEX)
    (descriptor,) = document["manifests"]
    assert (descriptor["mediaType"], descriptor["size"]) == (entry.media_type, entry.size)
    assert descriptor["digest"] == str(entry.digest)
    assert descriptor["annotations"][NAME] == str(entry.image)
    assert all(type(value) is str for value in descriptor["annotations"].values())


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed(content: bytes) -> None:
    """Content that is not JSON or no index has no entries."""
    assert parse(content) == []


leaves = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=5)
names = st.sampled_from([NAME, "mediaType", "digest", "size", "annotations", "manifests", "vnd.oci-mirror.checked"])
values = st.recursive(
    leaves | st.sampled_from([*map(str, DIGESTS), INDEX, "docker.io/a:b", f"docker.io/a@{DIGESTS[0]}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=5),
    max_leaves=12,
)
descriptors = st.fixed_dictionaries(
    {
        "mediaType": st.just(INDEX) | values,
        "digest": st.sampled_from([*map(str, DIGESTS)]) | values,
        "size": st.just(5) | values,
        "annotations": st.dictionaries(st.just(NAME) | names, values, max_size=3) | values,
    }
)


@given(values | st.fixed_dictionaries({"manifests": st.lists(descriptors | values, max_size=3)}))
def test_any_document_is_parsed(document: object) -> None:
    """Every entry is valid in itself: a name that the grammar allows, and for a digest no other one's content."""
    for entry in parse(orjson.dumps(document)):
        assert parse_image(str(entry.image)) == entry.image
        assert type(entry.size) is int
        assert entry.size >= 0
        if isinstance(entry.image.reference, Digest):
            assert entry.image.reference == entry.digest


def test_hostile_names_are_ignored() -> None:
    """Names that the grammar does not allow, and digests that are not those of the descriptor."""
    for name in ("", ":", "a", "a:b", "docker.io/../x:b", "docker.io/A:b", "docker.io/a:", "docker.io/a:b c", "/a:b"):
        assert parse_image(name) is None, name
    for name in (f"docker.io/a:{DIGESTS[0]}", "docker.io/a@b", f"docker.io/a@{DIGESTS[1]}", "docker.io/a"):
        annotations = {NAME: name}
        one = {"mediaType": INDEX, "digest": str(DIGESTS[0]), "size": 1, "annotations": annotations}
        assert parse(orjson.dumps({"manifests": [one]})) == [], name


def test_deep_nesting_is_ignored() -> None:
    assert parse(b'{"manifests":' + b"[" * 10**6) == []
