"""Logins from a config.json: as docker writes it, and written anew while the mirror runs."""

import json
from pathlib import Path

import pytest

from tests.fake.content import image
from tests.fake.tokens import Basic, Bearer, TokenServer, basic
from tests.http.client import Client, settled
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
    """As docker does: another file, put in its place."""
    new = directory / "config.json.new"
    new.write_text(json.dumps(members))
    new.rename(directory / "config.json")


async def comes(client: Client, target: str) -> None:
    """It is pulled, as soon as the file was looked at."""
    await settled(lambda: client.get(target), lambda reply: reply.status == 200 and "Warning" not in reply.headers)


async def test_a_login_in_the_file(client: Client, upstream: Upstream, directory: Path) -> None:
    """Under any spelling of the host; without it, the message names the file."""
    upstream.registry.gate = Basic("me", "secret")
    upstream.publish(image(1), "v1")
    write(directory)
    refused = await settled(lambda: client.get(upstream.manifest("v1")), lambda reply: reply.status == 404)
    assert "config.json" in str(refused.error["message"])
    write(directory, auths={f"https://{host(upstream)}/v1/": auth("me", "secret"), "other.test": auth("x", "y")})
    await comes(client, upstream.manifest("v1"))


async def test_an_identity_token_in_the_file(
    client: Client, upstream: Upstream, directory: Path, tokens: TokenServer
) -> None:
    """What `docker login` keeps of a service that gives them."""
    upstream.registry.gate = Bearer(tokens=tokens)
    tokens.refresh_tokens = {"identity"}
    upstream.publish(image(1), "v1")
    write(directory, auths={host(upstream): {**auth("<token>", ""), "identitytoken": "identity"}})
    await comes(client, upstream.manifest("v1"))
    assert tokens.forms[-1]["refresh_token"] == "identity"


@pytest.mark.parametrize(
    ("store", "own", "user"),
    [("none", "one", "one"), ("all", None, "all"), ("all", "", "file"), ("none", None, "file"), (None, "one", "one")],
)
async def test_helpers_in_the_file(
    client: Client, upstream: Upstream, directory: Path, store: str | None, own: str | None, user: str
) -> None:
    """A host's own helper, else the one for all, else the file; also where the helper knows nothing."""
    upstream.registry.gate = Basic(user, "secret")
    upstream.publish(image(1), "v1")
    helpers = {} if own is None else {host(upstream): own}
    write(directory, auths={host(upstream): auth("file", "secret")}, credsStore=store, credHelpers=helpers)
    await comes(client, upstream.manifest("v1"))


async def test_a_token_goes_with_its_login(
    client: Client, upstream: Upstream, directory: Path, tokens: TokenServer
) -> None:
    """Another login in the file: tokens that the former one had open nothing any more."""
    upstream.registry.gate = Bearer(tokens=tokens)
    tokens.logins = {"first": "secret", "second": "secret"}
    upstream.publish(image(1), "v1")
    for user in tokens.logins:
        write(directory, auths={host(upstream): auth(user, "secret")})
        await comes(client, upstream.manifest("v1"))
        await settled(
            lambda: client.get(upstream.manifest("v1")),
            lambda _: tokens.asked[-1].headers["Authorization"] == basic(user, "secret"),  # noqa: B023
        )
    shown = [seen.headers["Authorization"] for seen in tokens.asked if "Authorization" in seen.headers]
    assert shown == [basic("first", "secret"), basic("second", "secret")]


async def test_a_file_that_breaks_is_as_it_was(
    client: Client, upstream: Upstream, directory: Path, mirror: Mirror
) -> None:
    """What it said last holds; the log says once what is wrong; when it is whole again, it counts."""
    upstream.registry.gate = Basic("me", "secret")
    manifest = upstream.publish(image(1), "v1")
    write(directory, auths={host(upstream): auth("me", "secret")})
    await comes(client, upstream.manifest("v1"))
    (directory / "config.json").write_text('{"auths": {"secret')
    await settled(lambda: client.get(upstream.manifest("v1")), lambda _: bool(mirror.events("secret_file_broken")))
    assert (await client.get(upstream.blob(manifest.blobs[0]))).status == 200
    (event,) = mirror.events("secret_file_broken")
    assert "config.json" in str(event["reason"])
    assert '"secret' not in str(event)
    upstream.registry.gate = Basic("me", "other")
    write(directory, auths={host(upstream): auth("me", "other")})
    await comes(client, upstream.manifest("v1"))
