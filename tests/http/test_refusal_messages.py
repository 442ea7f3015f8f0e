"""Refusals of a mirror with users, in a form that dockerd treats as final."""

import pytest

from tests.fake.content import Blob, image
from tests.http.client import Client
from tests.http.upstreams import CALM, Upstream
from tests.http.users import basic, htpasswd

pytestmark = pytest.mark.asyncio(loop_scope="module")

PASSWORDS = {"alice": "may pull all", "bob": "may pull nothing"}
FILES = {"users": htpasswd(PASSWORDS)}
CONFIG = f'{CALM}\n[clients]\nusers_file = "{{directory}}/users"\n[[access]]\nusers = ["alice"]\nallow = true\n'
ALICE, BOB = (basic(user, password) for user, password in PASSWORDS.items())
DOCKERS_OWN = {"authentication required", "requested access to the resource is denied"}


@pytest.mark.parametrize(
    ("login", "status", "code"),
    [({}, 401, "UNAUTHORIZED"), (basic("bob", "guessed"), 401, "UNAUTHORIZED"), (BOB, 403, "DENIED")],
)
async def test_refusal_is_final_for_dockerd(
    client: Client, upstream: Upstream, login: dict[str, str], status: int, code: str
) -> None:
    """dockerd would retry for a minute after Docker's own message or an empty detail."""
    manifest = upstream.publish(image(1000), "v1")
    targets = [upstream.manifest("v1"), upstream.manifest(manifest), *map(upstream.blob, manifest.blobs)]
    for target in targets:
        assert (await client.get(target, ALICE)).status == 200
    for target in (*targets, upstream.blob(Blob.noise(1))):
        reply = await client.get(target, login)
        assert (reply.status, reply.error["code"]) == (status, code), reply
        assert str(reply.error["message"]).lower() not in DOCKERS_OWN
        assert reply.error["detail"]
        assert ("WWW-Authenticate" in reply.headers) == (status == 401)
        assert "Docker-Content-Digest" not in reply.headers
