"""Client certificates as a way in: the common name of one that was verified is the user."""

import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.fake.content import image
from tests.fake.registry import Registry
from tests.http.certificates import Authority
from tests.http.client import Client, Reply
from tests.http.upstreams import CALM, section
from tests.http.users import basic, htpasswd
from tests.real.mirror import Mirror
from tests.real.mirror import mirror as running_mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALICE = basic("alice", "open sesame")
TARGETS = ("/v2/", "/metrics", "/readyz", "/nowhere", "/v2/team/app/manifests/v1", "/v2/team/hidden/manifests/v1")
RULES = """
[[access]]
users = ["node-*", "\u00fcnal", "alice"]
repositories = ["docker.io/team/app"]
allow = true
"""


@dataclass(frozen=True, slots=True)
class Guarded:
    """A mirror, and the authority of its clients, which issued its own certificate too."""

    mirror: Mirror
    authority: Authority

    async def get(self, target: str, tls: ssl.SSLContext, headers: dict[str, str] | None = None) -> Reply:
        """What a client that connects so is told."""
        async with Client.of(self.mirror.url, tls=tls) as client:
            return await client.get(target, headers)


@contextlib.asynccontextmanager
async def guarded(directory: Path, hub: Registry, clients: str) -> AsyncIterator[Guarded]:
    """A mirror that knows clients by their certificates, and as *clients* says besides."""
    authority = Authority(directory)
    server = authority.server("server.pem")
    config = directory / "mirror.toml"
    config.write_text(
        f'[server]\ncertificate_file = "{server}"\nkey_file = "{server}"\n'
        f'[clients]\ncertificates_file = "{authority.written("clients.pem")}"\n{clients}{RULES}{CALM}'
        + section("docker.io", hub.url, "default = true")
    )
    hub.publish("team/app", image(10), "v1")
    hub.publish("team/hidden", image(10), "v1")
    async with running_mirror(directory, "--config", str(config)) as started:
        yield Guarded(started, authority)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def certified(tmp_path_factory: pytest.TempPathFactory, hub: Registry) -> AsyncIterator[Guarded]:
    """A certificate is the only way in."""
    async with guarded(tmp_path_factory.mktemp("certified"), hub, "") as mirror:
        yield mirror


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def either(tmp_path_factory: pytest.TempPathFactory, hub: Registry) -> AsyncIterator[Guarded]:
    """A certificate or a login."""
    directory = tmp_path_factory.mktemp("either")
    (directory / "users").write_text(htpasswd({"alice": "open sesame", "guest": "g"}))
    async with guarded(directory, hub, f'users_file = "{directory}/users"\n') as mirror:
        yield mirror


@pytest.mark.parametrize("headers", [{}, ALICE])
async def test_without_a_certificate_nobody_comes_in(certified: Guarded, headers: dict[str, str]) -> None:
    """403 at every path alike, no challenge, since no login would help; a message that says what would."""
    replies = [await certified.get(target, certified.authority.nobody(), headers) for target in TARGETS]
    for reply in replies:
        assert (reply.status, reply.error["code"]) == (403, "DENIED")
        assert "WWW-Authenticate" not in reply.headers
        assert "client certificate" in str(reply.error["message"])
        assert reply.body == replies[0].body


async def test_whoever_restarts_the_mirror_needs_no_certificate(certified: Guarded) -> None:
    """/healthz is for everybody who speaks TLS."""
    assert (await certified.get("/healthz", certified.authority.nobody())).status == 200


@pytest.mark.parametrize("name", ["node-1", "node-1.example", "\u00fcnal"])
async def test_the_common_name_is_the_user(certified: Guarded, name: str) -> None:
    """For the rules and for the log."""
    tls = certified.authority.client(name)
    assert [(await certified.get(target, tls)).status for target in TARGETS] == [200, 200, 200, 404, 200, 403]
    await certified.mirror.program.until(
        lambda: any(event["user"] == name for event in certified.mirror.events("pull_served"))
    )
    denied = await certified.get("/v2/team/hidden/manifests/v1", tls)
    assert f"user {name!r} may not pull docker.io/team/hidden" in str(denied.error["message"])


@pytest.mark.parametrize("name", ["node*", "*", "[n]ode-1", "Node-1", " node-1", "node-1 "])
async def test_a_name_is_no_pattern(certified: Guarded, name: str) -> None:
    """Patterns stand in rules; a name that looks like one is as it is spelled, or nobody's."""
    assert (await certified.get("/v2/team/app/manifests/v1", certified.authority.client(name))).status == 403


@pytest.mark.parametrize(
    "names",
    [(), ("anonymous",), ("node-1", "node-2"), ("node-1", "node-1"), ("node-1\n",), ("node-1\0",), ("node-1\u202e",)],
    ids=repr,
)
async def test_a_certificate_that_names_nobody_is_none(
    certified: Guarded, either: Guarded, names: tuple[str, ...]
) -> None:
    """No common name, two, that of those who have none, or one that breaks a line: 403, or 401 where that helps."""
    for guarded, status in ((certified, 403), (either, 401)):
        tls = guarded.authority.client(*names)
        assert [(await guarded.get(target, tls)).status for target in TARGETS] == [status] * len(TARGETS)


async def test_a_certificate_that_can_not_be_verified_ends_the_connection(certified: Guarded, tmp_path: Path) -> None:
    """One of another authority, one that is over: there is no answer that could be taken for a way in."""
    other = Authority(tmp_path)
    authority = certified.authority
    for tls in (other.client("node-1", trusting=authority), authority.client("node-1", ends=timedelta(days=-1))):
        with pytest.raises((aiohttp.ClientError, ConnectionError, ssl.SSLError)):
            await certified.get("/v2/team/app/manifests/v1", tls)


async def test_either_lets_in(either: Guarded) -> None:
    """A certificate without a login, a login without a certificate; with neither, a challenge."""
    target = "/v2/team/app/manifests/v1"
    node, nobody = either.authority.client("node-1"), either.authority.nobody()
    assert (await either.get(target, node)).status == 200
    assert (await either.get(target, nobody, ALICE)).status == 200
    stranger = await either.get(target, nobody)
    assert stranger.status == 401
    assert stranger.headers["WWW-Authenticate"].startswith("Basic ")


async def test_a_certificate_goes_before_a_login(either: Guarded) -> None:
    """Whoever shows both is whom the certificate names, and the password doesn't matter."""
    target = "/v2/team/app/manifests/v1"
    for login in (ALICE, basic("alice", "wrong")):
        assert (await either.get(target, either.authority.client("node-1"), login)).status == 200
        refused = await either.get(target, either.authority.client("other"), login)
        assert (refused.status, refused.error["code"]) == (403, "DENIED")
        assert "'other'" in str(refused.error["message"])


async def test_two_connections_are_two_users(certified: Guarded) -> None:
    """What one showed is nothing to the other, beside it or after it."""
    async with (
        Client.of(certified.mirror.url, tls=certified.authority.client("node-1")) as node,
        Client.of(certified.mirror.url, tls=certified.authority.client("other")) as other,
        Client.of(certified.mirror.url, tls=certified.authority.nobody()) as nobody,
    ):
        for _ in range(3):
            statuses = [(await one.get("/v2/team/app/manifests/v1")).status for one in (node, other, nobody)]
            assert statuses == [200, 403, 403]
            bases = [(await one.get("/v2/")).status for one in (node, other, nobody)]
            assert bases == [200, 200, 403]
