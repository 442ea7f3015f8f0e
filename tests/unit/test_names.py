"""Names: parsed ones are safe, all spellings of an image are one, equal names of two upstreams are two."""

import re

import pytest
from hypothesis import assume, given
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
def test_a_name_is_what_it_parses_to(name: str) -> None:
    """Also one with components that are words of the API."""
    assume(len(name) <= 255)
    assert parse_name(name) == name


@given(anything(names))
def test_a_text_is_a_name_or_is_refused(text: str) -> None:
    """What parses holds nothing that means anything to a file system or a URL."""
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
def test_what_is_no_name_is_refused(text: str) -> None:
    """By the grammar of the distribution specification, and no more than 255 characters."""
    with pytest.raises(NameInvalid):
        parse_name(text)


@given(tags)
def test_a_tag_is_what_it_parses_to(text: str) -> None:
    """Text and value stand for each other."""
    assert str(Tag.parse(text)) == text
    assert parse_reference(text) == Tag(text)


@given(anything(tags, digests.map(str)))
def test_a_text_is_a_reference_or_is_refused(text: str) -> None:
    """A tag or a digest, and nothing that leaves its path component."""
    reference = parsed(lambda: parse_reference(text), TagInvalid, DigestInvalid)
    if reference is None:
        return
    assert str(reference) == text
    assert isinstance(reference, Digest) == (":" in text)
    assert re.fullmatch(r"[a-zA-Z0-9_][a-zA-Z0-9_.:-]*", text)


@pytest.mark.parametrize("text", ["", ".", "..", ".a", "-a", "a/b", "a%2Fb", "a\n", "a b", "é", "x" * 129, "a\0"])
def test_what_is_no_tag_is_refused(text: str) -> None:
    """At most 128 characters, and none in front that means something to a file system."""
    with pytest.raises(TagInvalid):
        parse_reference(text)


@given(components)
def test_all_spellings_of_a_docker_hub_image_are_one(name: str) -> None:
    """Bare, with `library/`, by each of Docker Hub's three hosts in the path or in ns, and by default."""
    spelled = {UPSTREAMS.repository(spelling, ns=None)[0] for spelling in (name, f"library/{name}")}
    for host in HUB:
        for spelling in (name, f"library/{name}"):
            spelled.add(UPSTREAMS.repository(f"{host}/{spelling}", ns=None)[0])
            spelled.add(UPSTREAMS.repository(spelling, ns=host)[0])
            spelled.add(UPSTREAMS.repository(f"{host}/{spelling}", ns=host)[0])
    assert spelled == {Repository("docker.io", f"library/{name}")}
    assert len({str(repository) for repository in spelled}) == 1


@given(names, st.sampled_from(["quay.io", "QUAY.io", "localhost:5001"]))
def test_a_path_and_ns_are_two_ways_to_one_repository(name: str, host: str) -> None:
    """The upstream's name in front is stripped, also when ns says the same."""
    assume(len(name) <= 255)
    by_path = UPSTREAMS.repository(f"{host}/{name}", ns=None)
    assert by_path == (Repository(host.lower(), name), True)
    assert UPSTREAMS.repository(f"{host}/{name}", ns=host) == by_path
    by_ns, named = UPSTREAMS.repository(name, ns=host)
    assert (by_ns, named) == (by_path[0], False)
    assert hash(by_ns) == hash(by_path[0])


@given(names)
def test_equal_names_of_two_upstreams_are_two_repositories(name: str) -> None:
    """Neither equal nor under one key."""
    assume(len(name) <= 200)
    found = [UPSTREAMS.repository(name, ns=host)[0] for host in ("docker.io", "quay.io", "localhost:5001")]
    assert len(set(found)) == len({str(repository) for repository in found}) == 3


@given(names, hosts)
def test_a_repository_is_a_spelling_of_itself(name: str, ns: str) -> None:
    """Its text, read as a path, means it again, whatever ns says: whoever wrote the path meant it."""
    assume(len(name) <= 200)
    for host in ("docker.io", "quay.io", "localhost:5001"):
        repository, _ = UPSTREAMS.repository(name, ns=host)
        assert UPSTREAMS.repository(str(repository), ns=ns) == (repository, True)


@given(anything(names), st.none() | anything(hosts, st.sampled_from(HUB)))
def test_a_path_is_a_repository_or_is_refused(path: str, ns: str | None) -> None:
    """Of an upstream that is configured, under a name that parses; nothing else comes out."""
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
def test_ns_is_a_key_to_what_is_configured_and_never_an_address(ns: str) -> None:
    """What is not configured is refused with the names that are, and not dialled."""
    with pytest.raises(NameUnknown, match=r"docker\.io, localhost:5001, quay\.io") as refusal:
        UPSTREAMS.repository("org/app", ns=ns)
    assert len(str(refusal.value)) < 1000


def test_an_upstream_alone_names_no_repository_of_its_own() -> None:
    """`/v2/quay.io/manifests/…` asks the default upstream for an image of that name."""
    assert UPSTREAMS.repository("quay.io", ns=None)[0] == Repository("docker.io", "library/quay.io")


@given(names)
def test_without_a_default_upstream_a_name_must_say_its_own(name: str) -> None:
    """By path or by ns; if it says none, the answer says what to write."""
    upstreams = Upstreams(["quay.io", "ghcr.io"], default=None)
    with pytest.raises(NameUnknown, match=r"ghcr\.io, quay\.io"):
        upstreams.repository(name, ns=None)


@given(st.text())
def test_an_upstreams_canonical_name_is_its_own(host: str) -> None:
    """Canonical once is canonical for good, and in one case."""
    once = canonical_upstream(host)
    assert canonical_upstream(once) == once


@given(st.text(), st.none() | st.text())
def test_refusals_are_the_mirrors_own(path: str, ns: str | None) -> None:
    """Any text at all, without any upstream too."""
    parsed(lambda: UPSTREAMS.repository(path, ns=ns), NameInvalid, NameUnknown)
    assert parsed(lambda: Upstreams([], default=None).repository(path, ns=ns), NameUnknown) is None
