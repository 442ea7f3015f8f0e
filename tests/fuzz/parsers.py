"""First target: the parsers of everything that clients and upstreams write, with hypothesis."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from mirror.errors import MirrorError
from mirror.oci.authorization import parse_authorization
from mirror.oci.challenge import Bearer, parse_challenges
from mirror.oci.digest import Digest
from mirror.oci.ip_zones import Destination, literal, zone_of
from mirror.oci.links import link_to, next_page
from mirror.oci.manifest import Manifest, is_manifest, parse_media_type
from mirror.oci.names import Upstreams
from mirror.oci.ranges import ContentRange, requested_spans
from mirror.oci.routes import BlobRoute, ManifestRoute, ReferrersRoute, TagsRoute, parse_route
from mirror.server.response import is_known
from mirror.upstream.rate_limit import retry_after
from tests.fuzz.statistics import Statistics
from tests.unit.texts import anything, digests, hosts, names, tags

LONGEST = 1.0  # seconds for one input; longer is a denial of service
UPSTREAMS = Upstreams(["docker.io", "quay.io", "localhost:5000"], default="docker.io")
ANY = Digest.of(b"")

Input = str | bytes
Outcome = str  # one term for each kind of result


@dataclass(frozen=True, slots=True)
class Parser:
    """One parser with its inputs."""

    name: str
    inputs: st.SearchStrategy[Any]
    read: Callable[[Any], Outcome]


def _route(target: str) -> Outcome:
    route = parse_route(target, UPSTREAMS)
    if isinstance(route, ManifestRoute | BlobRoute | TagsRoute | ReferrersRoute):
        key = str(route.requested.repository)
        assert ".." not in key, key
        assert "//" not in key, key
        assert key.isascii(), key
        assert key.isprintable(), key
        assert not set(key) & set("%?#\\ "), key
    return type(route).__name__


def _challenge(header: str) -> Outcome:
    found = parse_challenges([header])
    assert all(one.realm for one in found if isinstance(one, Bearer))
    return f"{min(len(found), 3)} challenges"


def _link(header: str) -> Outcome:
    query = next_page(header)
    if query is None:
        return "last page"
    own = link_to("/v2/a/tags/list", query, None)
    assert own.isascii(), own
    assert own.isprintable(), own
    assert own.count("<") == own.count(">") == 1, own
    return "next page"


def _content_range(header: str) -> Outcome:
    found = ContentRange.parse(header)
    assert found is None or 0 <= found.span.start < found.span.end
    return "none" if found is None else "range"


def _ranges(header: str) -> Outcome:
    spans = requested_spans(header, 1000)
    assert all(0 <= span.start < span.end <= 1000 for span in spans or ())
    return "whole" if spans is None else f"{min(len(spans), 3)} ranges"


def _media_type(header: str) -> Outcome:
    found = parse_media_type(header)
    assert found is None or (found.isascii() and found.isprintable())
    return "none" if found is None else "type"


def _manifest(body: bytes) -> Outcome:
    found = Manifest.read(ANY, body, None)
    assert found.body is body
    assert all(one.size is None or one.size >= 0 for one in found.references)
    return f"{is_manifest(body)}, {found.is_index}, {min(len(found.references), 3)} references"


def _authorization(header: str) -> Outcome:
    found = parse_authorization(header)
    assert header not in repr(found) or len(header) < 12, "a secret has a repr"
    return type(found).__name__


def _destination(url: str) -> Outcome:
    try:
        found = Destination.parse(url)
    except ValueError:
        return "refused"
    assert found.url.isascii(), found
    assert found.url.isprintable(), found
    assert " " not in found.url, found
    address = literal(found.host)
    return "name" if address is None else zone_of(address).name


def _digest(text: str) -> Outcome:
    assert str(Digest.parse(text)) == text
    return "digest"


def _retry(header: str) -> Outcome:
    seconds = retry_after(header)
    assert seconds is None or seconds >= 0
    return "none" if seconds is None else "seconds"


def _known(header: str) -> Outcome:
    return str(is_known([header], ANY))


_references = tags | digests.map(str)
_routes = st.builds(
    "{}/v2/{}/{}/{}{}".format,
    st.sampled_from(["", "", "", "/quay.io"]),
    names | st.builds("{}/{}".format, hosts, names),
    st.sampled_from(["manifests", "blobs", "referrers", "tags"]),
    _references | st.just("list"),
    st.sampled_from(["", "?ns=quay.io", "?n=5&last=a", "?artifactType=a%2Fb"]),
)
_challenges = st.builds(
    'Bearer realm="https://{}/token",service="{}",scope="repository:{}:pull"'.format, hosts, hosts, names
)
_links = st.builds('<https://{}/v2/{}/tags/list?n=5&last={}>; rel="next"'.format, hosts, names, tags)
_numbers = st.integers(-1, 2000) | st.integers(0, 2**70)
_ranges_of = st.lists(st.builds("{}-{}".format, _numbers | st.just(""), _numbers | st.just("")), max_size=6)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | digests.map(str),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["schemaVersion", "mediaType", "manifests", "layers", "config", "digest", "size", "subject", "urls"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)
_dates = st.datetimes().map(lambda date: date.strftime("%a, %d %b %Y %H:%M:%S GMT"))
_urls = st.builds(
    "{}://{}{}{}/{}".format,
    st.sampled_from(["http", "https", "https", "HTTP", "ftp", ""]),
    st.sampled_from(["", "", "", "user@", "user:password@", "a.test\\@"]),
    hosts
    | st.ip_addresses(v=4).map(str)
    | st.ip_addresses(v=6).map("[{}]".format)
    | st.sampled_from(["[::1]", "127.1", "0x7f.1", "2130706433", "[::ffff:7f00:1]", "1.2.3.999"]),
    st.sampled_from(["", "", ":80", ":0", ":99999", ":"]),
    names | st.text(max_size=12),
)


def _as_json(value: object) -> bytes:
    return json.dumps(value).encode()


PARSERS = (
    Parser("route", anything(_routes), _route),
    Parser("challenge", anything(_challenges), _challenge),
    Parser("link", anything(_links), _link),
    Parser("content range", anything(st.builds("bytes {}-{}/{}".format, _numbers, _numbers, _numbers)), _content_range),
    Parser("ranges", anything(_ranges_of.map(lambda found: "bytes=" + ",".join(found))), _ranges),
    Parser("media type", anything(st.builds("{}/{}; charset={}".format, tags, tags, tags)), _media_type),
    Parser("manifest", st.binary() | _json.map(_as_json), _manifest),
    Parser(
        "authorization",
        anything(st.sampled_from(["Basic dXNlcjpwYXNz", "Bearer abc.def", "Negotiate"])),
        _authorization,
    ),
    Parser("destination", anything(_urls), _destination),
    Parser("digest", anything(digests.map(str)), _digest),
    Parser("retry after", anything(_numbers.map(str), _dates), _retry),
    Parser("if none match", anything(digests.map(lambda digest: f'W/"{digest}", *')), _known),
)


def run(statistics: Statistics, count: int, at: int | None) -> None:
    """Run at least *count* inputs in all, or those of parser number *at* only."""
    chosen = PARSERS if at is None else PARSERS[at : at + 1]
    with statistics.timed():
        for number, parser in enumerate(PARSERS):
            if parser in chosen:
                _run(statistics, parser, number, -(-count // len(chosen)))


def _run(statistics: Statistics, parser: Parser, number: int, count: int) -> None:
    @seed(statistics.seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(parser.inputs)
    def holds(text: Input) -> None:
        statistics.inputs += 1
        started = time.perf_counter()
        try:
            outcome = parser.read(text)
        except MirrorError as failure:
            outcome = f"{type(failure).__name__} {failure.status}"
        assert not outcome.endswith(("500", "502", "503")), outcome
        assert (took := time.perf_counter() - started) < LONGEST, f"took {took:.1f} s"
        statistics.answers[f"{parser.name}: {outcome}"] += 1

    try:
        holds()
    except Exception as error:  # any exception is a failure of the parser
        notes = "\n".join(getattr(error, "__notes__", []))
        kind = "hang" if "took" in str(error) else "crash"
        statistics.fail(kind, f"{parser.name}: {type(error).__name__}: {error}\n{notes}", number)
