"""A registry in memory, correct by default: manifests, blobs, tags and referrers of any number of repositories."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import parse_qsl, unquote, urlencode

from tests.fake.answers import Answer
from tests.fake.cdn import Cdn
from tests.fake.content import DOCKER_MANIFEST, OCI_INDEX, Blob, Manifest, descriptor
from tests.fake.journal import Seen
from tests.fake.origin import Origin, problem

_ROUTE = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs|referrers|tags)/(?P<reference>[^/]+)")


class Gate(Protocol):
    """Decides which clients may pull."""

    def admits(self, authorization: str | None, scope: str) -> bool:
        """Return whether this Authorization header is valid for that scope."""

    def challenges(self, authorization: str | None, scope: str) -> list[str]:
        """Return the WWW-Authenticate lines of a refusal; an empty list means 403, since no login would help."""


@dataclass(slots=True)
class Repository:
    """The content of one repository."""

    blobs: dict[str, Blob] = field(default_factory=dict)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)  # tag -> digest


class Registry(Origin):
    """The pull side of the distribution spec; tests change its behavior through the attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.gate: Gate | None = None  # None: open to all
        self.page_size = 100
        self.absolute_links = False
        self.opaque_pages = False  # links of tag lists carry an opaque token, as Quay's do
        self.has_referrers = True
        self.filters_referrers = True
        self.narrow: Callable[[Manifest], Answer] | None = None  # the response to an Accept without the media type
        self.blobs_at: Cdn | None = None  # blobs are redirected there
        self.manifests_at: Cdn | None = None
        self.redirect_code = 307
        self.redirects_heads = True  # False: HEAD is answered without a redirect, as by Quay
        self._repositories: dict[str, Repository] = {}

    def repository(self, name: str) -> Repository:
        """Return the repository of this name; create it if it is new."""
        return self._repositories.setdefault(name, Repository())

    def publish(self, name: str, manifest: Manifest, *tags: str) -> None:
        """Push a manifest with its blobs and child manifests, and point *tags* at it."""
        repository = self.repository(name)
        repository.manifests[manifest.digest] = manifest
        self.add(name, *manifest.blobs)
        for child in manifest.children:
            self.publish(name, child)
        for tag in tags:
            repository.tags[tag] = manifest.digest

    def add(self, name: str, *blobs: Blob) -> None:
        """Push blobs."""
        self.repository(name).blobs.update({blob.digest: blob for blob in blobs})

    def of_blob(self, blob: Blob, method: str | None = "GET") -> list[Seen]:
        """Return the requests for a blob."""
        return self.journal.of(method, f"*/blobs/{blob.digest}")

    def of_manifest(self, reference: str, method: str | None = None) -> list[Seen]:
        """Return the requests for a manifest, by tag or digest."""
        return self.journal.of(method, f"*/manifests/{reference}")

    async def respond(self, seen: Seen, body: bytes) -> Answer:
        if seen.path in ("/v2/", "/v2"):
            return self._check_gate(seen, "") or Answer.whole(b"{}", Content_Type="application/json")
        route = _ROUTE.fullmatch(seen.path)
        if route is None:
            return problem(404, "NAME_UNKNOWN", "no such route")
        name, reference = route["name"], unquote(route["reference"])
        refusal = self._check_gate(seen, f"repository:{name}:pull")
        if refusal is not None:
            return refusal
        repository = self._repositories.get(name)
        if repository is None:
            return problem(404, "NAME_UNKNOWN", "repository name not known to registry")
        match route["kind"]:
            case "manifests":
                return self._manifest(repository, reference, seen)
            case "blobs":
                return self._blob(repository, reference, seen)
            case "referrers":
                return self._referrers(repository, reference, seen)
            case _:
                return self._tags(repository, name, seen)

    def exempt_from_faults(self, answer: Answer) -> bool:
        """Faults do not apply to challenges, only to admitted requests."""
        return "X-Fake-Gate" in answer.headers

    def _check_gate(self, seen: Seen, scope: str) -> Answer | None:
        authorization = seen.headers.get("Authorization")
        if self.gate is None or self.gate.admits(authorization, scope):
            return None
        challenges = self.gate.challenges(authorization, scope)
        refusal = problem(401 if challenges else 403, "UNAUTHORIZED", "authentication required")
        refusal.headers["X-Fake-Gate"] = "closed"
        for challenge in challenges:
            refusal.headers.add("WWW-Authenticate", challenge)
        return refusal

    def _manifest(self, repository: Repository, reference: str, seen: Seen) -> Answer:
        manifest = repository.manifests.get(repository.tags.get(reference, reference))
        if manifest is None:
            return problem(404, "MANIFEST_UNKNOWN", "manifest unknown")
        if self.manifests_at is not None and self._redirects(seen):
            return self._redirect_to(self.manifests_at.presign(manifest.content, manifest.media_type))
        accepted = ",".join(seen.headers.getall("Accept", []))
        if self.narrow is not None and manifest.media_type not in accepted:
            return self.narrow(manifest)
        return _content(manifest.content, manifest.digest, manifest.media_type)

    def _blob(self, repository: Repository, digest: str, seen: Seen) -> Answer:
        blob = repository.blobs.get(digest)
        if blob is None:
            return problem(404, "BLOB_UNKNOWN", "blob unknown to registry")
        if self.blobs_at is not None and self._redirects(seen):
            return self._redirect_to(self.blobs_at.presign(blob.content))
        answer = _content(blob.content, blob.digest, "application/octet-stream")
        answer.ranged(seen.range)
        return answer

    def _redirects(self, seen: Seen) -> bool:
        return seen.method != "HEAD" or self.redirects_heads

    def _redirect_to(self, location: str) -> Answer:
        answer = Answer.whole(b"", self.redirect_code)
        answer.headers["Location"] = location
        return answer

    def _tags(self, repository: Repository, name: str, seen: Seen) -> Answer:
        asked = dict(parse_qsl(seen.query))
        count = min(int(asked.get("n", self.page_size)), self.page_size)
        last = bytes.fromhex(asked["next_page"]).decode() if "next_page" in asked else asked.get("last", "")
        names = sorted(tag for tag in repository.tags if tag > last)
        answer = _json({"name": name, "tags": names[:count]}, "application/json")
        if count and len(names) > count:
            token = names[count - 1].encode().hex()
            following = {"next_page": token} if self.opaque_pages else {"n": str(count), "last": names[count - 1]}
            self._link(answer, seen.path, following)
        return answer

    def _referrers(self, repository: Repository, digest: str, seen: Seen) -> Answer:
        if not self.has_referrers:
            return problem(404, "UNSUPPORTED", "no referrers here")
        asked = dict(parse_qsl(seen.query))
        found = [entry for m in repository.manifests.values() if (entry := _referrer(m, digest)) is not None]
        wanted = asked.get("artifactType")
        if wanted is not None and self.filters_referrers:
            found = [entry for entry in found if entry["artifactType"] == wanted]
        start = int(asked.get("from", "0"))
        page = found[start : start + self.page_size]
        answer = _json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": page}, OCI_INDEX)
        if wanted is not None and self.filters_referrers:
            answer.headers["OCI-Filters-Applied"] = "artifactType"
        if len(found) > start + self.page_size:
            following = {"artifactType": wanted} if wanted is not None else {}
            self._link(answer, seen.path, {**following, "from": str(start + self.page_size)})
        return answer

    def _link(self, answer: Answer, path: str, query: dict[str, str]) -> None:
        base = self.url if self.absolute_links else ""
        answer.headers["Link"] = f'<{base}{path}?{urlencode(query)}>; rel="next"'


def ghcr(manifest: Manifest) -> Answer:
    """Answer a narrow Accept with 404."""
    return problem(404, "MANIFEST_UNKNOWN", "OCI index found, but Accept header does not support OCI indexes")


def quay(manifest: Manifest) -> Answer:
    """Answer a narrow Accept with a converted manifest, whose digest differs."""
    converted = Manifest.of(manifest.content + b"\n", DOCKER_MANIFEST)
    return _content(converted.content, converted.digest, converted.media_type)


def _content(content: bytes, digest: str, media_type: str) -> Answer:
    answer = Answer.whole(content, Content_Type=media_type, Docker_Content_Digest=digest, ETag=f'"{digest}"')
    answer.headers["Docker-Distribution-Api-Version"] = "registry/2.0"
    return answer


def _json(body: object, media_type: str) -> Answer:
    return Answer.whole(json.dumps(body).encode(), Content_Type=media_type)


def _referrer(manifest: Manifest, digest: str) -> dict[str, object] | None:
    try:
        body = json.loads(manifest.content)
    except ValueError:
        return None
    if body.get("subject", {}).get("digest") != digest:
        return None
    return {**descriptor(manifest, manifest.media_type), "artifactType": body.get("artifactType", "")}
