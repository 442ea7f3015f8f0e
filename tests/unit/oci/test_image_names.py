"""Image names on the command line: expanded as docker does, and tag patterns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import DigestInvalid, NameInvalid, NameUnknown, TagInvalid
from mirror.oci.digest import Digest
from mirror.oci.image_names import Image, Selection, parse_image
from mirror.oci.names import Repository, Tag, Upstreams
from mirror.oci.versions import newest
from tests.unit.refusals import parsed
from tests.unit.texts import anything, names, tags

UPSTREAMS = Upstreams(["docker.io", "quay.io", "localhost:5001"], default="quay.io")
ALPINE = Repository("docker.io", "library/alpine")
DIGEST = Digest.of(b"")


@pytest.mark.parametrize(
    ("text", "repository", "reference"),
    [
        ("alpine", ALPINE, Tag("latest")),
        (" alpine:3.20\n", ALPINE, Tag("3.20")),
        ("docker.io/alpine", ALPINE, Tag("latest")),
        ("index.docker.io/library/alpine:latest", ALPINE, Tag("latest")),
        ("library/alpine", ALPINE, Tag("latest")),
        ("org/app:v1", Repository("docker.io", "org/app"), Tag("v1")),
        ("quay.io/org/app", Repository("quay.io", "org/app"), Tag("latest")),
        ("QUAY.io/org/app:V1", Repository("quay.io", "org/app"), Tag("V1")),
        ("localhost:5001/app:1", Repository("localhost:5001", "app"), Tag("1")),
        (f"alpine@{DIGEST}", ALPINE, DIGEST),
        (f"alpine:3.20@{DIGEST}", ALPINE, DIGEST),
    ],
)
def test_image_name_is_expanded_as_docker_does(text: str, repository: Repository, reference: Tag | Digest) -> None:
    """The registry is Docker Hub and the tag is latest if the name has none; the default upstream does not matter."""
    assert parse_image(text, UPSTREAMS) == Image(repository, reference)


@pytest.mark.parametrize(
    ("text", "pattern", "count", "stable"),
    [
        ("alpine:3.*", "3.*", None, False),
        ("alpine:3.*=2", "3.*", 2, False),
        ("alpine:*", "*", None, False),
        ("alpine:latest-semver", "*", 1, True),
        ("alpine:latest-semver=5", "*", 5, True),
    ],
)
def test_tag_pattern_parses_to_a_selection(text: str, pattern: str, count: int | None, stable: bool) -> None:
    """A pattern selects by glob or by version."""
    assert parse_image(text, UPSTREAMS) == Selection(ALPINE, pattern, count, stable)


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("ghcr.io/org/app", NameUnknown),
        ("localhost/app", NameUnknown),
        ("Alpine", NameInvalid),
        ("quay.io/", NameInvalid),
        ("", NameInvalid),
        ("alpine:", TagInvalid),
        ("alpine:a b", TagInvalid),
        ("alpine:3.*=0", TagInvalid),
        ("alpine:3.*=x", TagInvalid),
        ("alpine:3.*/x*", NameUnknown),
        ("alpine:v{1}*", TagInvalid),
        ("alpine@sha256:0", DigestInvalid),
    ],
)
def test_invalid_image_name_is_refused(text: str, refusal: type[Exception]) -> None:
    """The registry is never guessed."""
    with pytest.raises(refusal):
        parse_image(text, UPSTREAMS)


@given(anything(names) | anything(st.builds("{}:{}".format, names, tags)))
def test_any_text_parses_or_is_refused(text: str) -> None:
    """A parsed image round-trips through its text."""
    image = parsed(lambda: parse_image(text, UPSTREAMS), NameInvalid, NameUnknown, TagInvalid, DigestInvalid)
    if image is not None:
        assert parse_image(str(image), UPSTREAMS) == image


numbers = st.lists(st.integers(0, 30), min_size=3, max_size=3).map(lambda parts: ".".join(map(str, parts)))
versions = st.builds("{}{}".format, st.sampled_from(["", "v"]), numbers)


@given(st.lists(versions), st.integers(1, 5))
def test_newest_selects_the_highest_versions(tagged: list[str], count: int) -> None:
    """Components compare as numbers: 1.10 is newer than 1.9."""
    chosen = newest([*tagged, "latest", "edge"], count)
    values = [tuple(map(int, tag.removeprefix("v").split("."))) for tag in chosen]
    others = [tuple(map(int, tag.removeprefix("v").split("."))) for tag in set(tagged) - set(chosen)]
    assert values == sorted(values, reverse=True)
    assert len(chosen) == min(count, len(set(tagged)))
    assert not values or all(other <= values[-1] for other in others)


def test_release_is_newer_than_its_pre_releases() -> None:
    """Semantic Versioning 2.0.0, 11: also the order of pre-releases, numbers below words."""
    order = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11"]
    order += ["1.0.0-rc.1", "1.0.0"]
    assert newest(order, 99) == order[::-1]
    selection = Selection(ALPINE, "*", 1, stable=True)
    assert [str(image) for image in selection.chosen([*order, "2.0.0-rc.1", "latest"])] == [f"{ALPINE}:1.0.0"]


@given(st.lists(tags), st.sampled_from(["*", "v*", "[0-9]*", "*.*"]), st.none() | st.integers(1, 3))
def test_selection_returns_existing_tags_once(there: list[str], pattern: str, count: int | None) -> None:
    """It returns no more than *count*."""
    chosen = [image.reference for image in Selection(ALPINE, pattern, count).chosen(there)]
    assert len(set(chosen)) == len(chosen)
    assert {str(tag) for tag in chosen} <= set(there)
    assert count is None or len(chosen) <= count
