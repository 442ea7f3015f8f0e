"""Logins that a program keeps: asked for when upstream wants one, and anew when it takes none of the old."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fake.content import Manifest, image
from tests.fake.faults import Status
from tests.fake.registry import Registry
from tests.fake.tokens import Basic, Bearer, TokenServer, basic
from tests.http.client import Client, kept, settled
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
    """The program, as it is for one upstream."""

    directory: Path
    server: str

    def does(self, script: str) -> None:
        """From now on, in the language of the shell."""
        new = self.directory / f"new-{self.server}"
        new.write_text(script)
        new.rename(self.directory / f"do-{self.server}")

    def knows(self, user: str, secret: str) -> None:
        """A login."""
        found = json.dumps({"ServerURL": self.server, "Username": user, "Secret": secret})
        self.does(f"cat <<'END'\n{found}\nEND\n")

    @property
    def runs(self) -> int:
        noted = self.directory / f"runs-{self.server}"
        return len(noted.read_text().split()) if noted.exists() else 0


@pytest.fixture
def helper(upstream: Upstream, directory: Path) -> Helper:
    """Asked by the host to which the login goes."""
    return Helper(directory, f"127.0.0.1:{upstream.registry.port}")


async def pulled(client: Client, upstream: Upstream, manifest: Manifest, tag: str = "v1") -> None:
    """The whole image comes, and none of it stale."""
    reply = await client.get(upstream.manifest(tag))
    assert (reply.status, reply.body) == (200, manifest.content), reply
    assert "Warning" not in reply.headers
    for reply in await asyncio.gather(*(client.get(upstream.blob(blob)) for blob in manifest.blobs)):
        assert reply.status == 200, reply


async def test_basic(client: Client, upstream: Upstream, helper: Helper) -> None:
    """ECR's way. However many blobs there are, the program is run once, and not before a login is wanted."""
    open_to_all = upstream.publish(image(1), "open")
    await pulled(client, upstream, open_to_all, "open")
    assert helper.runs == 0
    helper.knows("AWS", "secret")
    upstream.registry.gate = Basic("AWS", "secret")
    await pulled(client, upstream, upstream.publish(image(*range(1, 11)), "v1"))
    assert helper.runs == 1


async def test_bearer(client: Client, upstream: Upstream, helper: Helper, tokens: TokenServer) -> None:
    """The login goes to the token service."""
    helper.knows("_json_key", "secret")
    tokens.logins = {"_json_key": "secret"}
    upstream.registry.gate = Bearer(tokens=tokens)
    await pulled(client, upstream, upstream.publish(image(*range(1, 11)), "v1"))
    assert [seen.headers["Authorization"] for seen in tokens.asked] == [basic("_json_key", "secret")]
    assert helper.runs == 1


async def test_an_identity_token(client: Client, upstream: Upstream, helper: Helper, tokens: TokenServer) -> None:
    """ACR's way: `<token>` for a name. It is exchanged by POST; in no URL, and in no header."""
    helper.knows("<token>", "identity/secret+=")
    tokens.refresh_tokens = {"identity/secret+="}
    tokens.fields = ("access_token",)
    upstream.registry.gate = Bearer(tokens=tokens)
    await pulled(client, upstream, upstream.publish(image(1, 2), "v1"))
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
async def test_an_identity_token_goes_nowhere_else(
    client: Client, upstream: Upstream, helper: Helper, tokens: TokenServer, code: int
) -> None:
    """Not where the token service redirects to; and where it is refused, nobody is asked as nobody."""
    helper.knows("<token>", "identity")
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


async def test_who_is_not_found_is_nobody(
    client: Client, upstream: Upstream, helper: Helper, tokens: TokenServer
) -> None:
    """The program knows no login here: public images are pulled without one."""
    helper.does(UNKNOWN)
    upstream.registry.gate = Bearer(tokens=tokens)
    await pulled(client, upstream, upstream.publish(image(1, 2), "v1"))
    assert ["Authorization" in seen.headers for seen in tokens.asked] == [False]


async def test_a_login_that_is_made_later(client: Client, upstream: Upstream, helper: Helper) -> None:
    """Nobody was refused; the next time somebody is there. No restart."""
    helper.does(UNKNOWN)
    upstream.registry.gate = Basic("me", "secret")
    manifest = upstream.publish(image(1), "v1")
    reply = await client.get(upstream.manifest("v1"))
    assert reply.status == 404, reply
    assert "docker-credential-test" in str(reply.error["message"])
    helper.knows("me", "secret")
    await settled(lambda: client.get(upstream.manifest("v1")), lambda reply: reply.status == 200)
    await pulled(client, upstream, manifest)


@pytest.mark.parametrize("code", [401, 403])
async def test_a_password_that_ends(client: Client, upstream: Upstream, helper: Helper, code: int) -> None:
    """ECR's end after 12 hours, with 403: the program is asked for the next one, once, and no client notices."""
    upstream.registry.gate = Basic("AWS", "first")
    helper.knows("AWS", "first")
    manifest = upstream.publish(image(1, 2), "v1")
    await pulled(client, upstream, manifest)
    helper.knows("AWS", "second")
    await asyncio.sleep(3.5)  # a password that was had a moment ago is not asked for again
    upstream.registry.gate = Basic("AWS", "second", code)
    later = upstream.publish(image(3, 4), "v1")
    await pulled(client, upstream, later)
    assert helper.runs == 2


async def test_a_wrong_login(client: Client, upstream: Upstream, helper: Helper, tokens: TokenServer) -> None:
    """404 and what to look at; the program is not run for each request; as soon as it is right, it works."""
    helper.knows("me", "wrong")
    tokens.logins = {"me": "right"}
    upstream.registry.gate = Bearer(tokens=tokens)
    manifest = upstream.publish(image(1), "v1")
    for _ in range(10):
        reply = await client.get(upstream.manifest("v1"))
        assert reply.status == 404, reply
        assert "WWW-Authenticate" not in reply.headers
        assert "docker-credential-test" in str(reply.error["message"])
    assert helper.runs <= 3
    helper.knows("me", "right")
    await settled(lambda: client.get(upstream.manifest("v1")), lambda reply: reply.status == 200)
    await pulled(client, upstream, manifest)


FAULTS = {
    "hangs": "sleep 60",
    "crashes": "kill -SEGV $$",
    "lies": """echo '{"Username": "me\\r\\nX: y", "Secret": 7}'""",
    "never stops": "yes",
}


@pytest.mark.parametrize("how", FAULTS)
async def test_a_helper_that_fails_opens_nothing(
    client: Client, upstream: Upstream, helper: Helper, tokens: TokenServer, how: str
) -> None:
    """Nobody is asked as nobody, though it would be let in; it is named; and once it is cured, it works."""
    helper.does(FAULTS[how])
    upstream.registry.gate = Bearer(tokens=tokens)
    manifest = upstream.publish(image(1), "v1")
    for reply in await asyncio.gather(*(client.get(upstream.manifest(manifest)) for _ in range(20))):
        assert reply.status == 503, reply
        assert "docker-credential-test" in str(reply.error["message"])
        assert int(reply.headers["Retry-After"]) >= 1
    assert helper.runs == 1
    assert tokens.asked == []
    helper.knows("me", "secret")
    await settled(lambda: client.get(upstream.manifest("v1")), lambda reply: reply.status == 200)
    await pulled(client, upstream, manifest)


async def test_a_helper_that_hangs_stalls_nobody_else(
    client: Client, upstream: Upstream, helper: Helper, mirror: Mirror, hub_image: Manifest
) -> None:
    """Other upstreams, what is cached, and health answer while it hangs; upstream itself is not blamed."""
    cached = upstream.publish(image(1), "v1")
    await pulled(client, upstream, cached)
    await kept(client, *(upstream.blob(blob) for blob in cached.blobs))
    helper.does("sleep 60")
    upstream.registry.gate = Basic("me", "secret")
    waiting = asyncio.create_task(client.get(upstream.manifest("v2")))
    await settled(lambda: client.get("/healthz"), lambda _: helper.runs > 0)
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
    """What another upstream has."""
    manifest = image(5)
    hub.publish("library/app", manifest, "v1")
    return manifest
