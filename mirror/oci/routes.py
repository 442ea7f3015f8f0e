"""Routes: parser of request targets (OCI distribution-spec 1.1, "Endpoints", the pull side).

The parser reads the raw target of the request line. It decodes only an encoded colon (some clients send
`sha256%3A…`). Names with `%2F`, `..` or `//` do not parse, and so never reach the file system or an upstream.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl

from mirror.errors import NameUnknown, RouteUnknown
from mirror.oci.digest import Digest
from mirror.oci.names import Reference, Repository, Upstreams, canonical_upstream, parse_reference

_MAX_TARGET_LENGTH = 4096
_MAX_PARAMETERS = 32
_ENCODED_COLON = re.compile("%3a", re.IGNORECASE)
_BY_REFERENCE = re.compile(r"(.+)/(manifests|blobs|referrers)/([^/]+)")
_TAGS_SUFFIX = "/tags/list"
_USERINFO = re.compile(r"//[^/?#]*@")  # in a target in absolute form (RFC 9112, 3.2.2)


@dataclass(frozen=True, slots=True)
class RequestedRepository:
    """A repository as the client spelled it. Error messages and links keep that spelling."""

    repository: Repository
    path: str  # the path of the repository as the client spelled it: "/v2/quay.io/org/app"
    ns: str | None
    by_path: bool  # whether the path named the upstream: such a client can't fall back to the upstream


@dataclass(frozen=True, slots=True)
class Api:
    """`/v2/`: the check of API support."""


@dataclass(frozen=True, slots=True)
class ManifestRoute:
    requested: RequestedRepository
    reference: Reference


@dataclass(frozen=True, slots=True)
class BlobRoute:
    requested: RequestedRepository
    digest: Digest


@dataclass(frozen=True, slots=True)
class TagsRoute:
    requested: RequestedRepository
    query: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ReferrersRoute:
    requested: RequestedRepository
    digest: Digest
    query: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class TokenRoute:
    """The mirror's own token service (distribution's token specification).

    Attributes:
        upstream: the upstream for which the client's login is meant; None if the request does not say.
    """

    upstream: str | None


@dataclass(frozen=True, slots=True)
class Probe:
    """An endpoint of the mirror itself: health, readiness, metrics."""

    name: Literal["healthz", "readyz", "metrics"]


Route = Api | ManifestRoute | BlobRoute | TagsRoute | ReferrersRoute | TokenRoute | Probe
TOKEN_PATH = "/token"  # noqa: S105 - a path

_PROBES: dict[str, Probe] = {
    "/healthz": Probe("healthz"),
    "/readyz": Probe("readyz"),
    "/metrics": Probe("metrics"),
}


def parse_route(target: str, upstreams: Upstreams) -> Route:
    """Parse *target*, the second part of the request line.

    Raises:
        RouteUnknown: if it is no endpoint of the mirror, too long, or has too many parameters.
        NameUnknown: if it names an upstream that is not configured, or none and there is no default.
        NameInvalid, TagInvalid, DigestInvalid: if that part breaks its grammar.
    """
    path, _, query = target.partition("?")
    if path in _PROBES:
        return _PROBES[path]
    if path in {"/v2", "/v2/"}:
        return Api()
    if path == TOKEN_PATH:
        return TokenRoute(_token_upstream(query, upstreams))
    if len(target) > _MAX_TARGET_LENGTH:
        raise RouteUnknown(
            f"the request target has {len(target)} characters; the maximum is {_MAX_TARGET_LENGTH}",
            maximum=_MAX_TARGET_LENGTH,
        )
    path = _ENCODED_COLON.sub(":", path)
    prefix, v2, rest = path.partition("/v2/")
    if not v2:
        raise _unknown_route(path)
    if prefix and not prefix.startswith("/"):
        raise _unknown_route(path)
    requested_path, ns = (prefix[1:] + "/" + rest if prefix else rest), _namespace(query)
    return _parse_endpoint(requested_path, path, ns, query, upstreams, prefix=prefix)


def _parse_endpoint(rest: str, path: str, ns: str | None, query: str, upstreams: Upstreams, *, prefix: str) -> Route:
    def requested(name: str, ending: int) -> RequestedRepository:
        repository, by_path = upstreams.repository(name, ns=ns)
        if prefix and not by_path:
            raise NameUnknown(
                f"{shown(prefix, 80)!r} before /v2/ is not a configured upstream; write /v2/<upstream>/<name>",
                prefix=shown(prefix, 80),
            )
        return RequestedRepository(repository, path[: len(path) - ending], ns if upstreams.knows(ns) else None, by_path)

    if rest.endswith(_TAGS_SUFFIX):
        return TagsRoute(requested(rest.removesuffix(_TAGS_SUFFIX), len(_TAGS_SUFFIX)), _list_query(query))
    found = _BY_REFERENCE.fullmatch(rest)
    if found is None:
        raise _unknown_route(path)
    name, kind, reference = found.groups()
    origin = requested(name, len(kind) + len(reference) + 2)
    match kind:
        case "manifests":
            return ManifestRoute(origin, parse_reference(reference))
        case "blobs":
            return BlobRoute(origin, Digest.parse(reference))
        case _:
            return ReferrersRoute(origin, Digest.parse(reference), _list_query(query))


def _namespace(query: str) -> str | None:
    """Return the `ns` parameter: a look-up key, never an address (distribution-spec, "Registry Proxying")."""
    if not query:
        return None
    values = [value for name, value in _pairs(query) if name == "ns"]
    if len(values) > 1:
        raise NameUnknown(
            f"the request has {len(values)} ns parameters; send one, the name of the upstream", ns="several"
        )
    return canonical_upstream(values[0]) if values else None


def _token_upstream(query: str, upstreams: Upstreams) -> str | None:
    """Return the upstream of a token request: from the path in its scope, or else from its service.

    Clients build the scope from the repository that they pull, and repeat the service of the challenge (token
    specification, "Requesting a Token"). The challenge at /v2/ can only name the default upstream.
    """
    pairs = _pairs(query)
    for scope in (one for name, value in pairs if name == "scope" for one in value.split(" ")):
        kind, _, rest = scope.partition(":")
        host, slash, _ = rest.rpartition(":")[0].partition("/")
        if kind == "repository" and slash and upstreams.knows(host):
            return canonical_upstream(host)
    service = next((value for name, value in pairs if name == "service"), None)
    return canonical_upstream(service) if service is not None and upstreams.knows(service) else None


def _list_query(query: str) -> tuple[tuple[str, str], ...]:
    """Return the parameters of a list request: n, last, artifactType, and those of an upstream's next-page links."""
    return tuple((name, value) for name, value in _pairs(query) if name != "ns")


def _pairs(query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
    except ValueError as error:
        raise RouteUnknown(
            f"the request has more than {_MAX_PARAMETERS} query parameters", maximum=_MAX_PARAMETERS
        ) from error


def shown(target: str, limit: int) -> str:
    """Return the first *limit* characters of a target for messages and the log, without a login in it."""
    return _USERINFO.sub("//", target, count=1)[:limit]


def _unknown_route(path: str) -> RouteUnknown:
    return RouteUnknown(
        f"{shown(path, 80)!r} is not an endpoint of this mirror. It serves /v2/<name>/manifests/<reference>, "
        f"/v2/<name>/blobs/<digest>, /v2/<name>/tags/list and /v2/<name>/referrers/<digest>",
        path=shown(path, 80),
    )
