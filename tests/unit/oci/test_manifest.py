"""Manifests: any bytes parse, and references are exactly the content that clients request."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirror.oci.digest import Digest
from mirror.oci.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    parse_media_type,
)
from mirror.oci.platforms import Platform
from tests.unit.texts import anything, digests

media_types = st.sampled_from([OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST])
platforms = st.sampled_from([None, Platform("linux", "amd64"), Platform("linux", "arm", "v7"), Platform("a", "b")])
descriptors = st.builds(Descriptor, digests, st.none() | st.integers(0, 2**60), st.none() | media_types, platforms)
KEYS = ["manifests", "layers", "config", "digest", "size", "mediaType", "urls", "subject", "fsLayers"]
json_texts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | digests.map(str),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(KEYS) | st.text(), inner),
    max_leaves=20,
).map(lambda value: json.dumps(value).encode())


def described(descriptor: Descriptor) -> dict[str, object]:
    platform = descriptor.platform
    found = {
        "digest": str(descriptor.digest),
        "size": descriptor.size,
        "mediaType": descriptor.media_type,
        "platform": None if platform is None else {name: getattr(platform, name) for name in platform.__slots__},
    }
    return {name: value for name, value in found.items() if value is not None}


def read(content: object, media_type: str | None = None) -> Manifest:
    body = json.dumps(content).encode()
    return Manifest.read(Digest.of(body), body, media_type)


@given(st.lists(descriptors, unique_by=lambda one: one.digest, min_size=1), media_types)
def test_image_manifest_references_config_and_layers(wanted: list[Descriptor], media_type: str) -> None:
    """Each once, in order, with the sizes in the manifest."""
    config, *layers = wanted
    content = {"config": described(config), "layers": [*map(described, layers), *map(described, wanted)]}
    manifest = read(content, media_type)
    assert manifest.references == tuple(wanted)
    assert not manifest.is_index
    assert manifest.head.media_type == media_type


@given(st.lists(descriptors, unique_by=lambda one: one.digest, min_size=1), media_types)
def test_index_references_its_manifests(wanted: list[Descriptor], media_type: str) -> None:
    """It references nothing else in it."""
    manifest = read({"manifests": list(map(described, wanted)), "layers": [described(wanted[0])]}, media_type)
    assert manifest.references == tuple(wanted)
    assert manifest.is_index


@given(descriptors, descriptors)
def test_foreign_layers_are_not_referenced(own: Descriptor, foreign: Descriptor) -> None:
    """Layers with `urls` are served elsewhere: an image that waited for them would never be complete."""
    if own.digest != foreign.digest:
        content = {"layers": [described(own), {**described(foreign), "urls": ["https://foreign.example/layer"]}]}
        assert read(content).references == (own,)


@given(st.binary() | json_texts | st.text().map(str.encode), st.none() | anything(media_types))
@example(b"[" * 100_000, None)
@example(b'{"layers":' * 10_000, None)
@example(b'{"config":{"digest":' + b"1" * 5000 + b"}}", None)
@example(b'{"manifests":[{"digest":"sha256:..","size":-1}],"mediaType":7}', None)
@example("{}".encode("utf-16"), None)
@example(b"\xff\xfe", "text/html; charset=utf-8")
def test_any_bytes_parse_without_an_error(body: bytes, media_type: str | None) -> None:
    """Bytes that are no manifest reference nothing. The media type is valid in a header."""
    digest = Digest.of(body)
    manifest = Manifest.read(digest, body, media_type)
    assert (manifest.digest, manifest.body, manifest.head.size) == (digest, body, len(body))
    assert parse_media_type(manifest.head.media_type) == manifest.head.media_type
    assert len({one.digest for one in manifest.references}) == len(manifest.references)
    assert all(Digest.parse(str(one.digest)) == one.digest for one in manifest.references)
    assert all(one.size is None or (type(one.size) is int and one.size >= 0) for one in manifest.references)


@pytest.mark.parametrize("size", [-1, 1.5, "7", True, None, [7]])
def test_invalid_size_counts_as_unknown(size: object) -> None:
    """A size is a non-negative integer."""
    digest = Digest.of(b"layer")
    assert read({"layers": [{"digest": str(digest), "size": size}]}).references == (Descriptor(digest, None),)


def test_media_type_comes_from_upstream_then_manifest_then_content() -> None:
    """An index is recognized by its `manifests`."""
    own = {"mediaType": DOCKER_MANIFEST}
    assert read(own, OCI_MANIFEST).head.media_type == OCI_MANIFEST
    assert read(own, f" {OCI_MANIFEST} ; charset=utf-8").head.media_type == OCI_MANIFEST
    assert read(own).head.media_type == DOCKER_MANIFEST
    assert read(own, "nonsense").head.media_type == DOCKER_MANIFEST
    assert read({"mediaType": "a\r\nb/c"}).head.media_type == OCI_MANIFEST
    assert read({"manifests": [described(Descriptor(Digest.of(b""), None))]}).head.media_type == OCI_INDEX


@given(anything(media_types, st.just("text/plain; charset=utf-8")))
def test_parsed_media_type_is_valid_in_a_header(header: str) -> None:
    """It has no parameters: containerd compares it byte for byte."""
    media_type = parse_media_type(header)
    if media_type is not None:
        assert media_type.isascii()
        assert media_type.isprintable()
        assert not set(media_type) & set(' ;,"')
        assert media_type.count("/") == 1
        assert parse_media_type(f"{media_type}; charset=utf-8") == media_type
