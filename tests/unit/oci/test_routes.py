"""Routes: a request target parses to one route with safe parts, or is refused."""

import re
from urllib.parse import urlencode

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mirror.errors import DigestInvalid, MirrorError, NameInvalid, NameUnknown, RouteUnknown, TagInvalid
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag, Upstreams, parse_name, parse_reference
from mirror.oci.routes import (
    Api,
    BlobRoute,
    ManifestRoute,
    Probe,
    ReferrersRoute,
    RequestedRepository,
    Route,
    TagsRoute,
    TokenRoute,
    parse_route,
)
from tests.unit.refusals import parsed
from tests.unit.texts import anything, digests, names, tags

HOSTS = ("docker.io", "quay.io", "localhost:5001")
UPSTREAMS = Upstreams(HOSTS, default="docker.io")
DIGEST = Digest.of(b"")
REFUSALS = (RouteUnknown, NameInvalid, NameUnknown, TagInvalid, DigestInvalid)
PATH = re.compile(r"(/[a-z0-9]+(([._-]+|:)[a-z0-9]+)*)+", re.IGNORECASE)

short_names = names.filter(lambda name: len(name) < 200)
parameters = st.lists(st.tuples(st.text(max_size=8).filter(lambda name: name != "ns"), st.text(max_size=8)), max_size=4)


@st.composite
def targets(draw: st.DrawFn) -> str:
    """Valid targets of every kind."""
    host = draw(st.sampled_from(["", "quay.io/", "localhost:5001/"]))
    begin = draw(st.sampled_from([f"/v2/{host}", f"/{host}v2/"]))
    reference = draw(digests.map(str))
    ending = draw(
        st.sampled_from([f"manifests/{reference}", f"blobs/{reference}", f"referrers/{reference}", "tags/list"])
        | tags.map("manifests/{}".format)
    )
    query = draw(st.sampled_from(["", "?", "?ns=quay.io", "?n=10&last=a", "?ns=docker.io&n=1"]))
    return f"{begin}{draw(short_names)}/{ending}{query}"


def requested_repository(route: Route) -> RequestedRepository | None:
    return None if isinstance(route, Api | Probe | TokenRoute) else route.requested


@given(anything(targets()))
def test_any_target_parses_to_a_safe_route_or_is_refused(target: str) -> None:
    """Names and references of a route are valid, and its path has no `..`, `//` or `%`."""
    route = parsed(lambda: parse_route(target, UPSTREAMS), *REFUSALS)
    requested = None if route is None else requested_repository(route)
    if requested is None:
        return
    assert requested.repository.upstream in HOSTS
    assert parse_name(requested.repository.name.removeprefix("library/"))
    assert PATH.fullmatch(requested.path), requested.path
    assert ".." not in requested.path
    if isinstance(route, ManifestRoute):
        assert parse_reference(str(route.reference)) == route.reference
    if isinstance(route, BlobRoute | ReferrersRoute):
        assert Digest.parse(str(route.digest)) == route.digest
    if isinstance(route, TagsRoute | ReferrersRoute):
        assert "ns" not in dict(route.query)


@given(st.text() | st.sampled_from(["169.254.169.254", "user@host", "a\r\nSet-Cookie: b", "\N{SNOWMAN}", "\0"]))
def test_ns_of_a_route_is_configured_or_none(ns: str) -> None:
    """It goes into headers and links of the response, so it is no free text, even if the path decides."""
    target = f"/v2/quay.io/org/app/blobs/{DIGEST}?{urlencode({'ns': ns}, errors='surrogatepass')}"
    route = parsed(lambda: parse_route(target, UPSTREAMS), *REFUSALS)
    requested = None if route is None else requested_repository(route)
    assert requested is None or requested.ns in (None, *HOSTS)


@given(short_names, tags, digests, parameters, st.sampled_from(["", "docker.io", "quay.io"]))
def test_endpoint_is_recognized_by_the_end_of_the_target(
    name: str, tag: str, digest: Digest, query: list[tuple[str, str]], ns: str
) -> None:
    """Names may contain words of the API: the last such word counts."""
    assume(name != "manifests")
    repository, _ = UPSTREAMS.repository(name, ns=ns or None)
    requested = RequestedRepository(repository, f"/v2/{name}", ns or None, by_path=False)
    own = tuple(query)
    asking = urlencode([*query, ("ns", ns)] if ns else query)
    found = [
        parse_route(f"/v2/{name}/{ending}?{asking}", UPSTREAMS)
        for ending in (
            f"manifests/{tag}",
            f"manifests/{digest}",
            f"blobs/{digest}",
            "tags/list",
            f"referrers/{digest}",
        )
    ]
    assert found == [
        ManifestRoute(requested, Tag(tag)),
        ManifestRoute(requested, digest),
        BlobRoute(requested, digest),
        TagsRoute(requested, own),
        ReferrersRoute(requested, digest, own),
    ]


@given(short_names, digests, st.sampled_from(["quay.io", "Quay.IO", "localhost:5001", "registry-1.docker.io"]))
def test_all_spellings_of_a_blob_yield_one_repository(name: str, digest: Digest, host: str) -> None:
    """The upstream before or after `/v2/`, or in ns; the digest's colon encoded or not."""
    spelled = [
        f"/v2/{host}/{name}/blobs/{digest}",
        f"/{host}/v2/{name}/blobs/{digest}",
        f"/v2/{host}/{name}/blobs/{digest}?ns={host}",
        f"/v2/{name}/blobs/{digest}?ns={host}",
        f"/v2/{name}/blobs/{digest.algorithm}%3A{digest.hex}?ns={host.replace(':', '%3A')}",
        f"/v2/{host.replace(':', '%3a')}/{name}/blobs/{digest.algorithm}%3a{digest.hex}",
    ]
    repositories = set()
    for target in spelled:
        route = parse_route(target, UPSTREAMS)
        assert isinstance(route, BlobRoute)
        assert route.digest == digest
        repositories.add(route.requested.repository)
    assert len(repositories) == 1


@pytest.mark.parametrize("spelled", ["ns=quay.io", "ns=quay%2Eio", "ns=QUAY.IO", "n=1&ns=quay.io", "%6Es=quay.io"])
def test_encoded_ns_is_decoded(spelled: str) -> None:
    """Otherwise the wrong upstream would answer."""
    requested = requested_repository(parse_route(f"/v2/org/app/manifests/1?{spelled}", UPSTREAMS))
    assert requested is not None
    assert requested.repository == Repository("quay.io", "org/app")


@pytest.mark.parametrize("spelled", ["ns=quay.io&ns=quay.io", "ns=quay.io&ns=docker.io", "ns=&ns=quay.io"])
def test_two_ns_parameters_are_refused(spelled: str) -> None:
    """The request is ambiguous."""
    with pytest.raises(NameUnknown, match="2 ns parameters"):
        parse_route(f"/v2/org/app/manifests/1?{spelled}", UPSTREAMS)


@pytest.mark.parametrize(
    ("target", "refusal"),
    [
        ("", RouteUnknown),
        ("/", RouteUnknown),
        ("/v1/", RouteUnknown),
        ("/v2//", RouteUnknown),
        ("/v2/_catalog", RouteUnknown),
        ("/V2/a/manifests/1", RouteUnknown),
        ("/v2/a/manifests/", RouteUnknown),
        ("/v2/a/blobs/uploads/", RouteUnknown),
        ("/v2/manifests/1", RouteUnknown),
        ("/v2/tags/list", RouteUnknown),
        ("/v2/a/tags/list/", RouteUnknown),
        ("/v2/a%2Fmanifests%2F1", RouteUnknown),
        ("/v2/a/../b/manifests/1", NameInvalid),
        ("/v2/../../etc/passwd/manifests/1", NameInvalid),
        ("/v2/a//b/manifests/1", NameInvalid),
        ("/v2//a/manifests/1", NameInvalid),
        ("/v2/a%2Fb/manifests/1", NameInvalid),
        ("/v2/%2e%2e/manifests/1", NameInvalid),
        ("/v2/a%00/manifests/1", NameInvalid),
        ("/v2/a\0/manifests/1", NameInvalid),
        ("/v2/A/manifests/1", NameInvalid),
        ("/v2/" + "a" * 2000 + "/manifests/1", NameInvalid),
        ("/v2/" + "a" * 10_000 + "/manifests/1", RouteUnknown),
        ("/v2/a/manifests/..", TagInvalid),
        ("/v2/a/manifests/%2e%2e", TagInvalid),
        ("/v2/a/manifests/" + "1" * 129, TagInvalid),
        (f"/v2/a/manifests/sha256:{DIGEST.hex.upper()}", DigestInvalid),
        (f"/v2/a/blobs/sha256:{DIGEST.hex}0", DigestInvalid),
        ("/v2/a/blobs/latest", DigestInvalid),
        ("/v2/a/blobs/sha256:..%2F..%2Fetc", DigestInvalid),
        ("/unknown.example/v2/a/manifests/1", NameUnknown),
        ("/..%2Fquay.io/v2/a/manifests/1", NameInvalid),
        ("/quay.io/../v2/a/manifests/1", NameInvalid),
        ("/v2/a/manifests/1?ns=169.254.169.254", NameUnknown),
        ("/v2/a/manifests/1?ns=user@host", NameUnknown),
        ("/v2/a/manifests/1?ns=user%40quay.io", NameUnknown),
        ("/v2/a/manifests/1?" + "&".join(f"a{number}=ns=" for number in range(40)), RouteUnknown),
    ],
)
def test_invalid_target_is_refused_with_the_error_of_its_part(target: str, refusal: type[MirrorError]) -> None:
    """Route, upstream, name, tag or digest."""
    with pytest.raises(refusal):
        parse_route(target, UPSTREAMS)


@pytest.mark.parametrize("prefix", ["//quay.io", "/quay.io/", "//quay.io//", "///quay.io"])
def test_empty_path_components_before_v2_are_refused(prefix: str) -> None:
    """The path goes into links: a link that begins with `//` would lead the client to another host."""
    with pytest.raises(MirrorError):
        parse_route(f"{prefix}/v2/org/app/tags/list", UPSTREAMS)


@pytest.mark.parametrize(
    ("target", "route"),
    [
        ("/v2", Api()),
        ("/v2/", Api()),
        ("/v2/?ns=quay.io", Api()),
        ("/healthz", Probe("healthz")),
        ("/readyz?verbose", Probe("readyz")),
        ("/metrics", Probe("metrics")),
    ],
)
def test_endpoints_of_the_mirror_itself_parse(target: str, route: Route) -> None:
    """A query is optional."""
    assert parse_route(target, UPSTREAMS) == route
