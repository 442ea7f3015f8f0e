"""Names: parsed names are safe, spellings of a repository are equal, equal names of two upstreams are not."""

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mirror.errors import DigestInvalid, NameInvalid, NameUnknown, TagInvalid
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag, Upstreams, canonical_upstream, parse_name, parse_reference
from tests.unit.refusals import parsed
from tests.unit.texts import anything, components, digests, hosts, names, tags

UPSTREAMS = Upstreams(["docker.io", "quay.io", "localhost:5001"], default="docker.io")
HUB = ("docker.io", "index.docker.io", "registry-1.docker.io", "Docker.IO")
SAFE = re.compile(r"[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*")


@given(names)
def test_valid_name_parses_to_itself(name: str) -> None:
    """Components such as `manifests` and `blobs` are valid too."""
    assume(len(name) <= 255)
    assert parse_name(name) == name


@given(anything(names))
def test_any_text_parses_as_a_safe_name_or_is_refused(text: str) -> None:
    """A parsed name contains nothing special to a file system or a URL."""
    name = parsed(lambda: parse_name(text), NameInvalid)
    if name is None:
        return
    assert name == text
    assert SAFE.fullmatch(name)
    assert ".." not in name
    assert len(name) <= 255


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", "a/", "/a", "a//b", "a/../b", "..", "a/./b", "A", "a%2Fb", "a\0", "a\n", "a b", "a.", "-a", "a___b"),
        *("a..b", "a/b:1", "a@b", "a?b", "a#b", "a\\b", "é", "\N{KELVIN SIGN}", "x" * 256, "x" * 10_000),
    ],
)
def test_invalid_name_is_refused(text: str) -> None:
    """The grammar of the distribution specification, and at most 255 characters."""
    with pytest.raises(NameInvalid):
        parse_name(text)


@given(tags)
def test_tag_round_trips_through_text(text: str) -> None:
    """Parsing the text of a tag yields an equal tag."""
    assert str(Tag.parse(text)) == text
    assert parse_reference(text) == Tag(text)


@given(anything(tags, digests.map(str)))
def test_any_text_parses_as_a_reference_or_is_refused(text: str) -> None:
    """A tag or a digest, which can't leave its path component."""
    reference = parsed(lambda: parse_reference(text), TagInvalid, DigestInvalid)
    if reference is None:
        return
    assert str(reference) == text
    assert isinstance(reference, Digest) == (":" in text)
    assert re.fullmatch(r"[a-zA-Z0-9_][a-zA-Z0-9_.:-]*", text)


@pytest.mark.parametrize("text", ["", ".", "..", ".a", "-a", "a/b", "a%2Fb", "a\n", "a b", "é", "x" * 129, "a\0"])
def test_invalid_tag_is_refused(text: str) -> None:
    """At most 128 characters, and no leading dot or dash."""
    with pytest.raises(TagInvalid):
        parse_reference(text)


@given(components)
def test_all_spellings_of_a_docker_hub_image_are_equal(name: str) -> None:
    """Short, with `library/`, with each of Docker Hub's hosts in the path or in ns, and by default."""
    spelled = {UPSTREAMS.repository(spelling, ns=None)[0] for spelling in (name, f"library/{name}")}
    for host in HUB:
        for spelling in (name, f"library/{name}"):
            spelled.add(UPSTREAMS.repository(f"{host}/{spelling}", ns=None)[0])
            spelled.add(UPSTREAMS.repository(spelling, ns=host)[0])
            spelled.add(UPSTREAMS.repository(f"{host}/{spelling}", ns=host)[0])
    assert spelled == {Repository("docker.io", f"library/{name}")}
    assert len({str(repository) for repository in spelled}) == 1


@given(names, st.sampled_from(["quay.io", "QUAY.io", "localhost:5001"]))
def test_path_and_ns_yield_the_same_repository(name: str, host: str) -> None:
    """The upstream in front is stripped, also if ns names it too."""
    assume(len(name) <= 255)
    by_path = UPSTREAMS.repository(f"{host}/{name}", ns=None)
    assert by_path == (Repository(host.lower(), name), True)
    assert UPSTREAMS.repository(f"{host}/{name}", ns=host) == by_path
    by_ns, named = UPSTREAMS.repository(name, ns=host)
    assert (by_ns, named) == (by_path[0], False)
    assert hash(by_ns) == hash(by_path[0])


@given(names)
def test_equal_names_of_two_upstreams_are_different_repositories(name: str) -> None:
    """They are not equal and have different keys."""
    assume(len(name) <= 200)
    found = [UPSTREAMS.repository(name, ns=host)[0] for host in ("docker.io", "quay.io", "localhost:5001")]
    assert len(set(found)) == len({str(repository) for repository in found}) == 3


@given(names, hosts)
def test_repository_round_trips_through_a_path(name: str, ns: str) -> None:
    """The upstream in the path takes precedence over ns."""
    assume(len(name) <= 200)
    for host in ("docker.io", "quay.io", "localhost:5001"):
        repository, _ = UPSTREAMS.repository(name, ns=host)
        assert UPSTREAMS.repository(str(repository), ns=ns) == (repository, True)


@given(anything(names), st.none() | anything(hosts, st.sampled_from(HUB)))
def test_any_path_yields_a_configured_repository_or_is_refused(path: str, ns: str | None) -> None:
    """The upstream is configured and the name is valid."""
    found = parsed(lambda: UPSTREAMS.repository(path, ns=ns), NameInvalid, NameUnknown)
    if found is None:
        return
    repository, _ = found
    assert repository.upstream in {"docker.io", "quay.io", "localhost:5001"}
    assert parse_name(repository.name.removeprefix("library/")) in path
    assert str(repository) == f"{repository.upstream}/{repository.name}"


@pytest.mark.parametrize(
    "ns",
    [
        *("", "169.254.169.254", "user@quay.io", "quay.io@169.254.169.254", "quay.io/", "http://quay.io"),
        *("quay.io:443", "quay.io.", " quay.io", "quay.io\0", "quay.io\r\nHost: x", "localhost", "[::1]", "x" * 10_000),
    ],
)
def test_unknown_ns_is_refused_with_the_configured_names(ns: str) -> None:
    """ns is a look-up key and never an address to dial."""
    with pytest.raises(NameUnknown, match=r"docker\.io, localhost:5001, quay\.io") as refusal:
        UPSTREAMS.repository("org/app", ns=ns)
    assert len(str(refusal.value)) < 1000


def test_upstream_name_without_a_repository_is_a_repository_name() -> None:
    """`/v2/quay.io/manifests/…` requests an image of that name from the default upstream."""
    assert UPSTREAMS.repository("quay.io", ns=None)[0] == Repository("docker.io", "library/quay.io")


@given(names)
def test_name_without_upstream_is_refused_if_there_is_no_default(name: str) -> None:
    """The message lists the upstreams to write in front."""
    upstreams = Upstreams(["quay.io", "ghcr.io"], default=None)
    with pytest.raises(NameUnknown, match=r"ghcr\.io, quay\.io"):
        upstreams.repository(name, ns=None)


@given(st.text())
def test_canonical_upstream_is_idempotent(host: str) -> None:
    """This holds for arbitrary text."""
    once = canonical_upstream(host)
    assert canonical_upstream(once) == once


@given(st.text(), st.none() | st.text())
@example("", "\U00010000" * 300)  # the longest escapes
def test_any_path_and_ns_raise_only_mirror_errors(path: str, ns: str | None) -> None:
    """This holds without any configured upstream too."""
    parsed(lambda: UPSTREAMS.repository(path, ns=ns), NameInvalid, NameUnknown)
    assert parsed(lambda: Upstreams([], default=None).repository(path, ns=ns), NameUnknown) is None
