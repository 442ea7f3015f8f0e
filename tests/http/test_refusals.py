"""What is refused, and in which words: by status, code, message and detail a client decides what it does next."""

from dataclasses import dataclass

import pytest

from tests.fake.content import image
from tests.fake.faults import Status
from tests.fake.registry import Registry
from tests.fake.tokens import Bearer, TokenServer
from tests.http.client import Client, Reply
from tests.http.upstreams import IMPATIENT, Upstream, by_ns

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = IMPATIENT + '[tags]\nmissing_for = "0s"\n'
A64 = "a" * 64
DOCKERS_OWN = {  # messages by which dockerd takes an error for a bare code, which it asks again for a minute
    "authentication required",
    "requested access to the resource is denied",
    "too many requests",
    "toomanyrequests",
    "service unavailable",
    "the operation is unsupported.",
    "unknown error",
    "manifest unknown",
    "blob unknown to registry",
    "repository name not known to registry",
}


@dataclass(frozen=True, slots=True)
class NeverContent:
    """A gate that hands everybody to a token server, and opens for no token."""

    bearer: Bearer

    def admits(self, authorization: str | None, scope: str) -> bool:
        return False

    def challenges(self, authorization: str | None, scope: str) -> list[str]:
        return self.bearer.challenges(authorization, scope)


def refused(reply: Reply, status: int, code: str | None = None) -> None:
    """An error that says so in JSON, with a message of the mirror's own and a detail that holds something."""
    assert reply.status == status, reply
    assert code in (None, reply.error["code"]), reply
    assert str(reply.error["message"]).strip().lower() not in DOCKERS_OWN
    assert len(str(reply.error["message"])) > 20
    assert reply.error["detail"]
    assert "WWW-Authenticate" not in reply.headers


@pytest.mark.parametrize("kind", ["blobs", "manifests"])
@pytest.mark.parametrize(
    "digest",
    [
        "sha384:" + "a" * 96,
        "blake3:" + A64,
        "md5:" + "a" * 32,
        "sha256:" + A64[1:],
        "sha256:" + A64 + "a",
        "sha256:" + A64.upper(),
        "SHA256:" + A64,
        "sha256:" + "g" * 64,
        "sha256:",
        "sha512:" + A64,
        "sha256:sha256:" + A64,
    ],
)
async def test_a_digest_that_is_none_is_400(client: Client, upstream: Upstream, kind: str, digest: str) -> None:
    """Another algorithm, another length, upper-case hex: 400 and DIGEST_INVALID, and nobody is asked upstream."""
    reply = await client.get(f"/v2/{upstream.name}/team/app/{kind}/{digest}")
    refused(reply, 400, "DIGEST_INVALID")
    assert len(upstream.registry.journal) == 0


@pytest.mark.parametrize(
    "ns", ["quay.example", "169.254.169.254", "user@docker.io", "docker.io/library", "docker.io&ns=docker.io", ""]
)
async def test_an_unknown_ns_is_404(client: Client, hub: Registry, ns: str) -> None:
    """On 404 every client falls back at once; on a connection made for it the mirror would be anybody's proxy."""
    asked = len(hub.journal)
    for what in ("manifests/v1", f"manifests/sha256:{A64}", f"blobs/sha256:{A64}", "tags/list"):
        refused(await client.get(f"/v2/team/app/{what}?ns={ns}"), 404, "NAME_UNKNOWN")
    assert len(hub.journal) == asked


async def test_a_token_that_opens_nothing_is_404_without_a_challenge(
    client: Client, upstream: Upstream, tokens: TokenServer
) -> None:
    """The token is handed out and then refused: a challenge passed on would draw the client's own login here."""
    manifest = upstream.publish(image(10), "v1")
    upstream.registry.gate = NeverContent(Bearer(tokens=tokens))
    targets = (upstream.manifest("v1"), upstream.manifest(manifest), upstream.blob(manifest.blobs[1]))
    for target in (*targets, *map(by_ns, targets)):
        refused(await client.get(target), 404)
        headed = await client.head(target)
        assert (headed.status, "WWW-Authenticate" in headed.headers) == (404, False)
    assert tokens.asked
    assert len(tokens.asked) <= 2 * len(upstream.registry.journal)


@pytest.mark.parametrize("code", [500, 502, 503])
async def test_a_token_server_that_fails_is_503_without_a_challenge(
    client: Client, upstream: Upstream, tokens: TokenServer, code: int
) -> None:
    """An outage beside the registry is an outage, and no question for the client's login."""
    upstream.publish(image(10), "v1")
    upstream.registry.gate = Bearer(tokens=tokens)
    tokens.inject(Status(code, {"WWW-Authenticate": 'Basic realm="tokens"'}))
    for target in (upstream.manifest("v1"), by_ns(upstream.manifest("v1"))):
        refused(await client.get(target), 503)


@pytest.mark.parametrize(
    "challenge", ['Basic realm="stray"', 'Bearer realm="http://127.0.0.1:9/token",service="stray"', "Negotiate"]
)
async def test_one_stray_challenge_does_not_stick(client: Client, upstream: Upstream, challenge: str) -> None:
    """An open registry asks once for a login: the very next request is made without one, and works."""
    manifest = upstream.publish(image(10), "v1")
    upstream.registry.inject(Status(401, {"WWW-Authenticate": challenge}), times=1)
    await client.get(upstream.blob(manifest.blobs[0]))
    for target, content in (
        (upstream.manifest("v1"), manifest.content),
        (upstream.blob(manifest.blobs[1]), manifest.blobs[1].content),
    ):
        reply = await client.get(target)
        assert (reply.status, reply.body) == (200, content), reply


@pytest.mark.parametrize(("status", "shown"), [(401, 404), (403, 404), (404, 404), (429, 429), (500, 503)])
async def test_a_refusal_is_worded_so_that_dockerd_believes_it(
    client: Client, upstream: Upstream, status: int, shown: int
) -> None:
    """dockerd asks for a minute on end after an error without detail or in the words of its own table."""
    manifest = upstream.publish(image(10), "v1")
    upstream.registry.inject(Status(status))
    for target in (upstream.manifest("v1"), upstream.manifest(manifest), upstream.blob(manifest.blobs[1])):
        refused(await client.get(target), shown)
