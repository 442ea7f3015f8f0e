"""Upstreams that require a login: passwords, credential helpers and tokens."""

import asyncio
import json
import os
import re
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from tests.real import images
from tests.real.mirror import mirror
from tests.real.program import eventually
from tests.real.registry import Htpasswd, docker_registry
from tests.real.skopeo import Skopeo
from tests.real.tokens import SERVICE, token_issuer

pytestmark = pytest.mark.needs("busybox", "docker-registry", "openssl", "skopeo")


def with_password(directory: Path, url: str, password: str) -> Path:
    """Write a configuration with a login for docker.io, its password in a separate file."""
    secret = directory / "password"
    secret.write_text(f"{password}\n")
    secret.chmod(0o600)
    configuration = directory / "mirror.toml"
    configuration.write_text(
        f'[upstreams."docker.io"]\nurl = "{url}"\ndefault = true\n'
        f'username = "{Htpasswd.user}"\npassword_file = "{secret}"\n'
    )
    return configuration


async def test_configured_login_serves_anonymous_clients(tmp_path: Path) -> None:
    """The mirror has the login; its clients need none, and the log does not contain the password."""
    image = images.runnable("behind a password")
    async with docker_registry(tmp_path / "locked", Htpasswd(tmp_path)) as locked:
        await locked.push(image, "team/secret", "1")
        configuration = with_password(tmp_path, locked.url, Htpasswd.password)

        async with mirror(tmp_path / "mirror", "--config", str(configuration)) as mirrored:
            skopeo = Skopeo(tmp_path / "skopeo")
            await skopeo.copy(f"{mirrored.host}/docker.io/team/secret:1")
            await locked.stop()
            copy = await skopeo.copy(f"{mirrored.host}/docker.io/team/secret:1")

            assert (copy / "manifest.json").read_bytes() == image.manifest.content
            assert Htpasswd.password not in mirrored.program.said()

    answered = Counter(access.path for access in locked.accesses() if access.method == "GET" and access.status == 200)
    assert {path for path in answered if "/blobs/" in path} == {
        f"/v2/team/secret/blobs/{digest}" for digest in image.blob_digests()
    }


async def test_wrong_upstream_password_is_404_with_upstream_name(tmp_path: Path) -> None:
    """The client cannot fix the login and is not asked for one: it gets 404 with a message that names the upstream."""
    async with docker_registry(tmp_path / "locked", Htpasswd(tmp_path)) as locked:
        await locked.push(images.runnable("never seen"), "team/secret", "1")
        configuration = with_password(tmp_path, locked.url, "wrong")

        async with mirror(tmp_path / "mirror", "--config", str(configuration)) as mirrored:
            url = f"{mirrored.url}/v2/docker.io/team/secret/manifests/1"
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                assert answer.status == 404
                assert "WWW-Authenticate" not in answer.headers
                assert "docker.io" in await answer.text()


async def test_one_token_fetches_all_blobs_of_an_image(tmp_path: Path) -> None:
    """A client pulls sixty layers, six at a time: the mirror fetches one token."""
    image = images.layered(60)
    async with token_issuer(tmp_path / "issuer") as issuer, docker_registry(tmp_path / "locked", issuer) as locked:
        await locked.push(image, "team/tokens", "1")

        async with mirror(tmp_path / "mirror", upstreams={"docker.io": locked.url}) as mirrored:
            skopeo = Skopeo(tmp_path / "skopeo")
            copy = await skopeo.copy(f"{mirrored.host}/docker.io/team/tokens:1")

            assert (copy / "manifest.json").read_bytes() == image.manifest.content
            assert [request.scopes for request in issuer.requests] == [("repository:team/tokens:pull",)]
            assert issuer.requests[0].service == SERVICE
            assert not re.search(r"eyJ[\w-]{20}", mirrored.program.said())  # no token in the log

        await locked.stop()
    assert locked.blob_gets() >= Counter(image.blob_digests())
    served = [access for access in locked.accesses() if access.method == "GET" and access.status == 200]
    assert len([access for access in served if "/blobs/" in access.path]) == len(image.blobs)


async def test_each_repository_uses_its_own_token(tmp_path: Path) -> None:
    """Tokens are cached by scope: a second image of the same repository needs no further token."""
    async with token_issuer(tmp_path / "issuer") as issuer, docker_registry(tmp_path / "locked", issuer) as locked:
        await locked.push(images.runnable("a"), "team/a", "1")
        await locked.push(images.runnable("a again"), "team/a", "2")
        await locked.push(images.runnable("b"), "team/b", "1")

        async with mirror(tmp_path / "mirror", upstreams={"docker.io": locked.url}) as mirrored:
            clients = {name: Skopeo(tmp_path / f"skopeo-{name}") for name in ("a", "b")}
            names = {name: f"{mirrored.host}/docker.io/team/{name}" for name in clients}
            await asyncio.gather(*(client.copy(f"{names[name]}:1") for name, client in clients.items()))
            await clients["a"].copy(f"{names['a']}:2")

    assert sorted(request.scopes for request in issuer.requests) == [
        ("repository:team/a:pull",),
        ("repository:team/b:pull",),
    ]


async def test_credential_helper_provides_upstream_login(tmp_path: Path) -> None:
    """The helper is named in docker's config.json; after a failed login it is asked again, without a restart."""
    image, later = images.runnable("behind a helper"), images.runnable("behind another password")
    program = tmp_path / "docker-credential-test"
    program.write_text(f"#!/bin/sh\ncat '{tmp_path}/answer'\n")
    program.chmod(0o755)

    def set_password(password: str) -> None:
        (tmp_path / "answer").write_text(json.dumps({"Username": Htpasswd.user, "Secret": password}))

    set_password("expired")
    (tmp_path / "config.json").write_text('{"credsStore": "test"}')
    configuration = tmp_path / "mirror.toml"
    configuration.write_text(f'[credentials]\ndocker_config = "{tmp_path}/config.json"\n')
    async with docker_registry(tmp_path / "locked", Htpasswd(tmp_path)) as locked:
        await locked.push(image, "team/secret", "1")
        await locked.push(later, "team/secret", "2")

        async with mirror(
            tmp_path / "mirror",
            *("--config", str(configuration)),
            upstreams={"docker.io": locked.url},
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        ) as mirrored:
            url = f"{mirrored.url}/v2/docker.io/team/secret/manifests/1"
            async with aiohttp.ClientSession() as session:
                async with session.get(url) as answer:
                    assert answer.status == 404
                    assert "docker login" in await answer.text()
                set_password(Htpasswd.password)

                async def is_served() -> bool:
                    async with session.get(url) as answer:
                        return answer.status == 200

                await eventually(is_served)
            skopeo = Skopeo(tmp_path / "skopeo")
            copy = await skopeo.copy(f"{mirrored.host}/docker.io/team/secret:2")

            assert (copy / "manifest.json").read_bytes() == later.manifest.content
            assert Htpasswd.password not in mirrored.program.said()
