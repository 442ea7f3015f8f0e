"""Credential helpers: run when upstream requires a login, and again when it refuses the last one."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fake.content import Manifest, image
from tests.fake.faults import Status
from tests.fake.registry import Registry
from tests.fake.tokens import Basic, Bearer, TokenServer, basic
from tests.http.client import Client, poll_until, wait_until_cached
from tests.http.upstreams import Upstream
from tests.real.mirror import Mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = (
    '[timeouts]\nfirst_byte = "4s"\nshutdown = "2s"\n[tags]\nfresh_for = "0s"\n[credentials]\nhelper_timeout = "2s"\n'
)
UPSTREAM = 'credential_helper = "test"\n'
PROGRAMS = {
    "docker-credential-test": '#!/bin/sh\nserver=$(cat)\ncd {directory}\necho x >> "runs-$server"\n. "./do-$server"\n'
}
UNKNOWN = "echo credentials not found in native keychain; exit 1"


@dataclass(frozen=True, slots=True)
class Helper:
    """The helper program, with its behavior for one upstream."""

    directory: Path
    server: str

    def set_script(self, script: str) -> None:
        """Set the behavior, as a shell script."""
        new = self.directory / f"new-{self.server}"
        new.write_text(script)
        new.rename(self.directory / f"do-{self.server}")

    def set_login(self, user: str, secret: str) -> None:
        """Set the login that it returns."""
        found = json.dumps({"ServerURL": self.server, "Username": user, "Secret": secret})
        self.set_script(f"cat <<'END'\n{found}\nEND\n")

    @property
    def runs(self) -> int:
        noted = self.directory / f"runs-{self.server}"
        return len(noted.read_text().split()) if noted.exists() else 0


@pytest.fixture
def helper(upstream: Upstream, directory: Path) -> Helper:
    """The helper for the host that receives the login."""
    return Helper(directory, f"127.0.0.1:{upstream.registry.port}")


async def assert_pulled(client: Client, upstream: Upstream, manifest: Manifest, tag: str = "v1") -> None:
    """Check that the whole image is served, and not stale."""
    reply = await client.get(upstream.manifest(tag))
    assert (reply.status, reply.body) == (200, manifest.content), reply
    assert "Warning" not in reply.headers
    for reply in await asyncio.gather(*(client.get(upstream.blob(blob)) for blob in manifest.blobs)):
        assert reply.status == 200, reply


async def test_helper_login_for_basic(client: Client, upstream: Upstream, helper: Helper) -> None:
    """ECR works like this. The helper runs once for many blobs, and not before a login is required."""
    open_to_all = upstream.publish(image(1), "open")
    await assert_pulled(client, upstream, open_to_all, "open")
    assert helper.runs == 0
    helper.set_login("AWS", "secret")
    upstream.registry.gate = Basic("AWS", "secret")
    await assert_pulled(client, upstream, upstream.publish(image(*range(1, 11)), "v1"))
    assert helper.runs == 1


async def test_helper_login_for_bearer(client: Client, upstream: Upstream, helper: Helper, tokens: TokenServer) -> None:
    """The login is sent to the token service."""
    helper.set_login("_json_key", "secret")
    tokens.logins = {"_json_key": "secret"}
    upstream.registry.gate = Bearer(tokens=tokens)
    await assert_pulled(client, upstream, upstream.publish(image(*range(1, 11)), "v1"))
    assert [seen.headers["Authorization"] for seen in tokens.asked] == [basic("_json_key", "secret")]
    assert helper.runs == 1


async def test_helper_identity_token(client: Client, upstream: Upstream, helper: Helper, tokens: TokenServer) -> None:
    """ACR works like this: the user is `<token>`; the identity token is sent by POST, never in a URL or a header."""
    helper.set_login("<token>", "identity/secret+=")
    tokens.refresh_tokens = {"identity/secret+="}
    tokens.fields = ("access_token",)
    upstream.registry.gate = Bearer(tokens=tokens)
    await assert_pulled(client, upstream, upstream.publish(image(1, 2), "v1"))
    (seen,) = tokens.asked
    assert (seen.method, seen.query, seen.headers.get("Authorization")) == ("POST", "", None)
    assert tokens.forms == [
        {
            "grant_type": "refresh_token",
            "service": "registry.test",
            "scope": f"repository:{upstream.repository}:pull",
            "client_id": "oci-mirror",
            "refresh_token": "identity/secret+=",
        }
    ]


@pytest.mark.parametrize("code", [307, 401])
async def test_identity_token_is_not_sent_elsewhere(
    client: Client, upstream: Upstream, helper: Helper, tokens: TokenServer, code: int
) -> None:
    """It does not follow a redirect of the token service; after a refusal there is no anonymous attempt."""
    helper.set_login("<token>", "identity")
    tokens.refresh_tokens = {"identity"}
    upstream.registry.gate = Bearer(tokens=tokens)
    upstream.publish(image(1), "v1")
    async with TokenServer.running() as elsewhere:
        tokens.inject(Status(code, {"Location": elsewhere.realm}))
        reply = await client.get(upstream.manifest("v1"))
        assert reply.status == 404, reply
        assert "docker-credential-test" in str(reply.error["message"])
        assert len(elsewhere.journal) == 0
    assert {seen.method for seen in tokens.asked} == {"POST"}


async def test_helper_without_a_login_means_anonymous(
    client: Client, upstream: Upstream, helper: Helper, tokens: TokenServer
) -> None:
    """If the helper has no login for the host, public images are pulled anonymously."""
    helper.set_script(UNKNOWN)
    upstream.registry.gate = Bearer(tokens=tokens)
    await assert_pulled(client, upstream, upstream.publish(image(1, 2), "v1"))
    assert ["Authorization" in seen.headers for seen in tokens.asked] == [False]


async def test_helper_is_run_again_after_an_anonymous_refusal(
    client: Client, upstream: Upstream, helper: Helper
) -> None:
    """A login added later is used without a restart."""
    helper.set_script(UNKNOWN)
    upstream.registry.gate = Basic("me", "secret")
    manifest = upstream.publish(image(1), "v1")
    reply = await client.get(upstream.manifest("v1"))
    assert reply.status == 404, reply
    assert "docker-credential-test" in str(reply.error["message"])
    helper.set_login("me", "secret")
    await poll_until(lambda: client.get(upstream.manifest("v1")), lambda reply: reply.status == 200)
    await assert_pulled(client, upstream, manifest)


@pytest.mark.parametrize("code", [401, 403])
async def test_expired_helper_password_is_renewed(
    client: Client, upstream: Upstream, helper: Helper, code: int
) -> None:
    """ECR's passwords expire after 12 hours, with 403: the helper runs once more, and clients do not notice."""
    upstream.registry.gate = Basic("AWS", "first")
    helper.set_login("AWS", "first")
    manifest = upstream.publish(image(1, 2), "v1")
    await assert_pulled(client, upstream, manifest)
    helper.set_login("AWS", "second")
    await asyncio.sleep(3.5)  # a password obtained a moment ago is not requested again
    upstream.registry.gate = Basic("AWS", "second", code)
    later = upstream.publish(image(3, 4), "v1")
    await assert_pulled(client, upstream, later)
    assert helper.runs == 2


async def test_wrong_helper_login(client: Client, upstream: Upstream, helper: Helper, tokens: TokenServer) -> None:
    """404 with advice; the helper does not run for each request; a corrected login takes effect."""
    helper.set_login("me", "wrong")
    tokens.logins = {"me": "right"}
    upstream.registry.gate = Bearer(tokens=tokens)
    manifest = upstream.publish(image(1), "v1")
    for _ in range(10):
        reply = await client.get(upstream.manifest("v1"))
        assert reply.status == 404, reply
        assert "WWW-Authenticate" not in reply.headers
        assert "docker-credential-test" in str(reply.error["message"])
    assert helper.runs <= 3
    helper.set_login("me", "right")
    await poll_until(lambda: client.get(upstream.manifest("v1")), lambda reply: reply.status == 200)
    await assert_pulled(client, upstream, manifest)


FAULTS = {
    "hangs": "sleep 60",
    "crashes": "kill -SEGV $$",
    "lies": """echo '{"Username": "me\\r\\nX: y", "Secret": 7}'""",
    "never stops": "yes",
}


@pytest.mark.parametrize("how", FAULTS)
async def test_failing_helper_does_not_fall_back_to_anonymous(
    client: Client, upstream: Upstream, helper: Helper, tokens: TokenServer, how: str
) -> None:
    """No anonymous request is made, though it would succeed; the message names the helper; a repaired one works."""
    helper.set_script(FAULTS[how])
    upstream.registry.gate = Bearer(tokens=tokens)
    manifest = upstream.publish(image(1), "v1")
    for reply in await asyncio.gather(*(client.get(upstream.manifest(manifest)) for _ in range(20))):
        assert reply.status == 503, reply
        assert "docker-credential-test" in str(reply.error["message"])
        assert int(reply.headers["Retry-After"]) >= 1
    assert helper.runs == 1
    assert tokens.asked == []
    helper.set_login("me", "secret")
    await poll_until(lambda: client.get(upstream.manifest("v1")), lambda reply: reply.status == 200)
    await assert_pulled(client, upstream, manifest)


async def test_hanging_helper_does_not_stall_others(
    client: Client, upstream: Upstream, helper: Helper, mirror: Mirror, hub_image: Manifest
) -> None:
    """Other upstreams, cached content and /healthz respond meanwhile; the upstream does not count as down."""
    cached = upstream.publish(image(1), "v1")
    await assert_pulled(client, upstream, cached)
    await wait_until_cached(client, *(upstream.blob(blob) for blob in cached.blobs))
    helper.set_script("sleep 60")
    upstream.registry.gate = Basic("me", "secret")
    waiting = asyncio.create_task(client.get(upstream.manifest("v2")))
    await poll_until(lambda: client.get("/healthz"), lambda _: helper.runs > 0)
    for target in ("/v2/docker.io/library/app/manifests/v1", upstream.blob(cached.blobs[0]), upstream.manifest(cached)):
        reply = await client.get(target)
        assert reply.status == 200, reply
    for probe in ("/healthz", "/readyz", "/metrics"):
        assert (await client.get(probe)).status == 200
    assert not waiting.done()
    assert (await waiting).status == 503
    stale = await client.get(upstream.manifest("v1"))
    assert (stale.status, stale.body) == (200, cached.content)
    assert stale.headers["Warning"]
    states = json.loads((await client.get("/readyz")).body)["upstreams"]
    assert states[upstream.name] == "up"


@pytest.fixture
def hub_image(hub: Registry) -> Manifest:
    """An image of another upstream."""
    manifest = image(5)
    hub.publish("library/app", manifest, "v1")
    return manifest
