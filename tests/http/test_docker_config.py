"""Logins from a config.json in Docker's format, which may change while the mirror runs."""

import json
from pathlib import Path

import pytest

from tests.fake.content import image
from tests.fake.tokens import Basic, Bearer, TokenServer, basic
from tests.http.client import Client, poll_until
from tests.http.upstreams import Upstream
from tests.real.mirror import Mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = """
[timeouts]
shutdown = "2s"
[tags]
fresh_for = "0s"
missing_for = "0s"
[credentials]
docker_config = "{directory}/config.json"
"""
FILES = {"config.json": "{}"}
PROGRAMS = {
    "docker-credential-one": """#!/bin/sh\necho '{"Username": "one", "Secret": "secret"}'\n""",
    "docker-credential-all": """#!/bin/sh\necho '{"Username": "all", "Secret": "secret"}'\n""",
    "docker-credential-none": "#!/bin/sh\necho credentials not found in native keychain\nexit 1\n",
}


def auth(user: str, password: str) -> dict[str, str]:
    return {"auth": basic(user, password).removeprefix("Basic ")}


def host(upstream: Upstream) -> str:
    return f"127.0.0.1:{upstream.registry.port}"


def write(directory: Path, **members: object) -> None:
    """Replace the file atomically, as docker does."""
    new = directory / "config.json.new"
    new.write_text(json.dumps(members))
    new.rename(directory / "config.json")


async def becomes_available(client: Client, target: str) -> None:
    """Wait until the target is served and not stale; the file is read again after a moment."""
    await poll_until(lambda: client.get(target), lambda reply: reply.status == 200 and "Warning" not in reply.headers)


async def test_login_from_docker_config(client: Client, upstream: Upstream, directory: Path) -> None:
    """Any spelling of the host matches; without a login the error message names the file."""
    upstream.registry.gate = Basic("me", "secret")
    upstream.publish(image(1), "v1")
    write(directory)
    refused = await poll_until(lambda: client.get(upstream.manifest("v1")), lambda reply: reply.status == 404)
    assert "config.json" in str(refused.error["message"])
    write(directory, auths={f"https://{host(upstream)}/v1/": auth("me", "secret"), "other.test": auth("x", "y")})
    await becomes_available(client, upstream.manifest("v1"))


async def test_identity_token_from_docker_config(
    client: Client, upstream: Upstream, directory: Path, tokens: TokenServer
) -> None:
    """The token that `docker login` stores for services that issue one."""
    upstream.registry.gate = Bearer(tokens=tokens)
    tokens.refresh_tokens = {"identity"}
    upstream.publish(image(1), "v1")
    write(directory, auths={host(upstream): {**auth("<token>", ""), "identitytoken": "identity"}})
    await becomes_available(client, upstream.manifest("v1"))
    assert tokens.forms[-1]["refresh_token"] == "identity"


@pytest.mark.parametrize(
    ("store", "own", "user"),
    [("none", "one", "one"), ("all", None, "all"), ("all", "", "file"), ("none", None, "file"), (None, "one", "one")],
)
async def test_helpers_in_docker_config(
    client: Client, upstream: Upstream, directory: Path, store: str | None, own: str | None, user: str
) -> None:
    """The host's own helper, else the default helper, else the file; also if the helper has no login."""
    upstream.registry.gate = Basic(user, "secret")
    upstream.publish(image(1), "v1")
    helpers = {} if own is None else {host(upstream): own}
    write(directory, auths={host(upstream): auth("file", "secret")}, credsStore=store, credHelpers=helpers)
    await becomes_available(client, upstream.manifest("v1"))


async def test_changed_login_invalidates_its_tokens(
    client: Client, upstream: Upstream, directory: Path, tokens: TokenServer
) -> None:
    """After a change of the login, tokens obtained with the old one are not used."""
    upstream.registry.gate = Bearer(tokens=tokens)
    tokens.logins = {"first": "secret", "second": "secret"}
    upstream.publish(image(1), "v1")
    for user in tokens.logins:
        write(directory, auths={host(upstream): auth(user, "secret")})
        await becomes_available(client, upstream.manifest("v1"))
        await poll_until(
            lambda: client.get(upstream.manifest("v1")),
            lambda _: tokens.asked[-1].headers["Authorization"] == basic(user, "secret"),  # noqa: B023
        )
    shown = [seen.headers["Authorization"] for seen in tokens.asked if "Authorization" in seen.headers]
    assert shown == [basic("first", "secret"), basic("second", "secret")]


async def test_broken_docker_config_keeps_the_last_version(
    client: Client, upstream: Upstream, directory: Path, mirror: Mirror
) -> None:
    """The last valid content applies; the log reports the error once; a repaired file takes effect."""
    upstream.registry.gate = Basic("me", "secret")
    manifest = upstream.publish(image(1), "v1")
    write(directory, auths={host(upstream): auth("me", "secret")})
    await becomes_available(client, upstream.manifest("v1"))
    (directory / "config.json").write_text('{"auths": {"secret')
    await poll_until(lambda: client.get(upstream.manifest("v1")), lambda _: bool(mirror.events("secret_file_broken")))
    assert (await client.get(upstream.blob(manifest.blobs[0]))).status == 200
    (event,) = mirror.events("secret_file_broken")
    assert "config.json" in str(event["reason"])
    assert '"secret' not in str(event)
    upstream.registry.gate = Basic("me", "other")
    write(directory, auths={host(upstream): auth("me", "other")})
    await becomes_available(client, upstream.manifest("v1"))
