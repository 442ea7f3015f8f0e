"""Routes: what a request target asks for (OCI distribution-spec 1.1, "Endpoints", the pull side).

The target is read as it stood on the request line. Nothing in it is decoded but an encoded colon (some clients send
`sha256%3A…`): with `%2F`, `..` or `//` the names no longer parse, and so never reach the file system or upstream.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl

from mirror.errors import NameUnknown, RouteUnknown
from mirror.oci.digest import Digest
from mirror.oci.names import Reference, Repository, Upstreams, canonical_upstream, parse_reference

_LONGEST_TARGET = 4096
_MOST_PARAMETERS = 32
_ENCODED_COLON = re.compile("%3a", re.IGNORECASE)
_BY_REFERENCE = re.compile(r"(.+)/(manifests|blobs|referrers)/([^/]+)")
_LAST_TAGS = "/tags/list"
_USERINFO = re.compile(r"//[^/?#]*@")  # of a target in absolute form (RFC 9112, 3.2.2)


@dataclass(frozen=True, slots=True)
class RequestedRepository:
    """How a client named a repository: what errors and links must be true to."""

    repository: Repository
    path: str  # of the repository in the client's own spelling, from the root: "/v2/quay.io/org/app"
    ns: str | None
    by_path: bool  # the path named the upstream: the client knows no other way to it


@dataclass(frozen=True, slots=True)
class Api:
    """`/v2/`: is this a registry?"""


@dataclass(frozen=True, slots=True)
class ManifestRoute:
    asked: RequestedRepository
    reference: Reference


@dataclass(frozen=True, slots=True)
class BlobRoute:
    asked: RequestedRepository
    digest: Digest


@dataclass(frozen=True, slots=True)
class TagsRoute:
    asked: RequestedRepository
    query: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ReferrersRoute:
    asked: RequestedRepository
    digest: Digest
    query: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class TokenRoute:
    """The mirror's own token service (distribution's token specification).

    Attributes:
        upstream: the one at which a login is to count; None where the request leaves it open.
    """

    upstream: str | None


@dataclass(frozen=True, slots=True)
class Probe:
    """One of the endpoints that are the mirror's own."""

    name: Literal["healthz", "readyz", "metrics"]


Route = Api | ManifestRoute | BlobRoute | TagsRoute | ReferrersRoute | TokenRoute | Probe
TOKEN_PATH = "/token"  # noqa: S105 - a path

_PROBES: dict[str, Probe] = {
    "/healthz": Probe("healthz"),
    "/readyz": Probe("readyz"),
    "/metrics": Probe("metrics"),
}


def parse_route(target: str, upstreams: Upstreams) -> Route:
    """What *target*, the second word of the request line, asks for.

    Raises:
        RouteUnknown, NameUnknown, NameInvalid, TagInvalid, DigestInvalid
    """
    path, _, query = target.partition("?")
    if path in _PROBES:
        return _PROBES[path]
    if path in {"/v2", "/v2/"}:
        return Api()
    if path == TOKEN_PATH:
        return TokenRoute(_meant_upstream(query, upstreams))
    if len(target) > _LONGEST_TARGET:
        raise RouteUnknown(
            f"the request target has {len(target)} characters; {_LONGEST_TARGET} are the most", most=4096
        )
    path = _ENCODED_COLON.sub(":", path)
    prefix, v2, rest = path.partition("/v2/")
    if not v2:
        raise _no_such(path)
    if prefix and not prefix.startswith("/"):
        raise _no_such(path)
    asked_path, ns = (prefix[1:] + "/" + rest if prefix else rest), _namespace(query)
    return _parse_endpoint(asked_path, path, ns, query, upstreams, prefix=prefix)


def _parse_endpoint(rest: str, path: str, ns: str | None, query: str, upstreams: Upstreams, *, prefix: str) -> Route:
    def asked(name: str, ending: int) -> RequestedRepository:
        repository, by_path = upstreams.repository(name, ns=ns)
        if prefix and not by_path:
            raise NameUnknown(
                f"{shown(prefix, 80)!r} before /v2/ is not an upstream that is configured here; write "
                f"/v2/<upstream>/<name>",
                prefix=shown(prefix, 80),
            )
        return RequestedRepository(repository, path[: len(path) - ending], ns if upstreams.knows(ns) else None, by_path)

    if rest.endswith(_LAST_TAGS):
        return TagsRoute(asked(rest.removesuffix(_LAST_TAGS), len(_LAST_TAGS)), _own(query))
    found = _BY_REFERENCE.fullmatch(rest)
    if found is None:
        raise _no_such(path)
    name, kind, reference = found.groups()
    origin = asked(name, len(kind) + len(reference) + 2)
    match kind:
        case "manifests":
            return ManifestRoute(origin, parse_reference(reference))
        case "blobs":
            return BlobRoute(origin, Digest.parse(reference))
        case _:
            return ReferrersRoute(origin, Digest.parse(reference), _own(query))


def _namespace(query: str) -> str | None:
    """The `ns` parameter: a look-up key, never an address (distribution-spec, "Registry Proxying")."""
    if not query:
        return None
    values = [value for name, value in _pairs(query) if name == "ns"]
    if len(values) > 1:
        raise NameUnknown(
            f"the request has {len(values)} ns parameters; one says which upstream is meant", ns="several"
        )
    return canonical_upstream(values[0]) if values else None


def _meant_upstream(query: str, upstreams: Upstreams) -> str | None:
    """The upstream that a request for a token is about: the one that its scope names by path, or else its service.

    Clients take the scope from the name that they pull, and repeat the service of the challenge (token specification,
    "Requesting a Token"); from /v2/ they know no better service than the default upstream.
    """
    pairs = _pairs(query)
    for scope in (one for name, value in pairs if name == "scope" for one in value.split(" ")):
        kind, _, rest = scope.partition(":")
        host, slash, _ = rest.rpartition(":")[0].partition("/")
        if kind == "repository" and slash and upstreams.knows(host):
            return canonical_upstream(host)
    service = next((value for name, value in pairs if name == "service"), None)
    return canonical_upstream(service) if service is not None and upstreams.knows(service) else None


def _own(query: str) -> tuple[tuple[str, str], ...]:
    """The list's own parameters: n, last, artifactType, and whatever upstream's links to the next page hold."""
    return tuple((name, value) for name, value in _pairs(query) if name != "ns")


def _pairs(query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS)
    except ValueError as error:
        raise RouteUnknown(
            f"the request has more than {_MOST_PARAMETERS} query parameters", most=_MOST_PARAMETERS
        ) from error


def shown(target: str, most: int) -> str:
    """The beginning of a target, as errors and events may say it: without a login that somebody wrote into it."""
    return _USERINFO.sub("//", target, count=1)[:most]


def _no_such(path: str) -> RouteUnknown:
    return RouteUnknown(
        f"{shown(path, 80)!r} is not an endpoint of this mirror: it serves /v2/<name>/manifests/<reference>, "
        f"/v2/<name>/blobs/<digest>, /v2/<name>/tags/list and /v2/<name>/referrers/<digest>",
        path=shown(path, 80),
    )
