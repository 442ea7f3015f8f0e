"""Error responses: status, code, message and detail, from which clients derive their next step."""

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
DOCKERS_OWN = {  # messages that dockerd treats as a bare code, which it retries for a minute
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
class UselessTokens:
    """A gate that sends clients to a token service, and accepts no token."""

    bearer: Bearer

    def admits(self, authorization: str | None, scope: str) -> bool:
        return False

    def challenges(self, authorization: str | None, scope: str) -> list[str]:
        return self.bearer.challenges(authorization, scope)


def assert_error(reply: Reply, status: int, code: str | None = None) -> None:
    """Check an error: status, code, a message of the mirror's own, a detail, and no challenge."""
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
async def test_invalid_digest_is_400(client: Client, upstream: Upstream, kind: str, digest: str) -> None:
    """Unknown algorithm, wrong length, upper-case hex: DIGEST_INVALID, without an upstream request."""
    reply = await client.get(f"/v2/{upstream.name}/team/app/{kind}/{digest}")
    assert_error(reply, 400, "DIGEST_INVALID")
    assert len(upstream.registry.journal) == 0


@pytest.mark.parametrize(
    "ns", ["quay.example", "169.254.169.254", "user@docker.io", "docker.io/library", "docker.io&ns=docker.io", ""]
)
async def test_unknown_ns_is_404(client: Client, hub: Registry, ns: str) -> None:
    """Clients fall back at once after 404; connecting to the host would make the mirror an open proxy."""
    asked = len(hub.journal)
    for what in ("manifests/v1", f"manifests/sha256:{A64}", f"blobs/sha256:{A64}", "tags/list"):
        assert_error(await client.get(f"/v2/team/app/{what}?ns={ns}"), 404, "NAME_UNKNOWN")
    assert len(hub.journal) == asked


async def test_useless_token_is_404_without_a_challenge(
    client: Client, upstream: Upstream, tokens: TokenServer
) -> None:
    """The token is issued and then refused: a challenge passed on would make clients send their own login."""
    manifest = upstream.publish(image(10), "v1")
    upstream.registry.gate = UselessTokens(Bearer(tokens=tokens))
    targets = (upstream.manifest("v1"), upstream.manifest(manifest), upstream.blob(manifest.blobs[1]))
    for target in (*targets, *map(by_ns, targets)):
        assert_error(await client.get(target), 404)
        headed = await client.head(target)
        assert (headed.status, "WWW-Authenticate" in headed.headers) == (404, False)
    assert tokens.asked
    assert len(tokens.asked) <= 2 * len(upstream.registry.journal)


@pytest.mark.parametrize("code", [500, 502, 503])
async def test_failing_token_service_is_503_without_a_challenge(
    client: Client, upstream: Upstream, tokens: TokenServer, code: int
) -> None:
    """An outage of the token service is an outage, without a request for the client's login."""
    upstream.publish(image(10), "v1")
    upstream.registry.gate = Bearer(tokens=tokens)
    tokens.inject(Status(code, {"WWW-Authenticate": 'Basic realm="tokens"'}))
    for target in (upstream.manifest("v1"), by_ns(upstream.manifest("v1"))):
        assert_error(await client.get(target), 503)


@pytest.mark.parametrize(
    "challenge", ['Basic realm="stray"', 'Bearer realm="http://127.0.0.1:9/token",service="stray"', "Negotiate"]
)
async def test_single_challenge_is_not_remembered(client: Client, upstream: Upstream, challenge: str) -> None:
    """An open registry sends one challenge: the next request is sent without a login, and succeeds."""
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
async def test_error_is_final_for_dockerd(client: Client, upstream: Upstream, status: int, shown: int) -> None:
    """dockerd retries for a minute after an error without detail or with a message of its own table."""
    manifest = upstream.publish(image(10), "v1")
    upstream.registry.inject(Status(status))
    for target in (upstream.manifest("v1"), upstream.manifest(manifest), upstream.blob(manifest.blobs[1])):
        assert_error(await client.get(target), shown)
