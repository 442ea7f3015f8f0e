"""Client certificates: the common name of a verified certificate is the user."""

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
    """A mirror, and the certificate authority of its clients, which also issued the server's certificate."""

    mirror: Mirror
    authority: Authority

    async def get(self, target: str, tls: ssl.SSLContext, headers: dict[str, str] | None = None) -> Reply:
        """Send a GET with this TLS context; return the reply."""
        async with Client.of(self.mirror.url, tls=tls) as client:
            return await client.get(target, headers)


@contextlib.asynccontextmanager
async def guarded(directory: Path, hub: Registry, clients: str) -> AsyncIterator[Guarded]:
    """Run a mirror with client certificates, and with more settings of the section in *clients*."""
    authority = Authority(directory)
    server = authority.server("server.pem")
    config = directory / "mirror.toml"
    config.write_text(
        f'[server]\ncertificate_file = "{server}"\nkey_file = "{server}"\n'
        f'[clients]\ncertificates_file = "{authority.write_ca_certificate("clients.pem")}"\n{clients}{RULES}{CALM}'
        + section("docker.io", hub.url, "default = true")
    )
    hub.publish("team/app", image(10), "v1")
    hub.publish("team/hidden", image(10), "v1")
    async with running_mirror(directory, "--config", str(config)) as started:
        yield Guarded(started, authority)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def certified(tmp_path_factory: pytest.TempPathFactory, hub: Registry) -> AsyncIterator[Guarded]:
    """A mirror that accepts only certificates."""
    async with guarded(tmp_path_factory.mktemp("certified"), hub, "") as mirror:
        yield mirror


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cert_or_login(tmp_path_factory: pytest.TempPathFactory, hub: Registry) -> AsyncIterator[Guarded]:
    """A mirror that accepts a certificate or a login."""
    directory = tmp_path_factory.mktemp("either")
    (directory / "users").write_text(htpasswd({"alice": "open sesame", "guest": "g"}))
    async with guarded(directory, hub, f'users_file = "{directory}/users"\n') as mirror:
        yield mirror


@pytest.mark.parametrize("headers", [{}, ALICE])
async def test_client_without_a_certificate_is_refused(certified: Guarded, headers: dict[str, str]) -> None:
    """403 at every path alike; no challenge, since a login would not help; the message names the certificate."""
    replies = [await certified.get(target, certified.authority.without_certificate(), headers) for target in TARGETS]
    for reply in replies:
        assert (reply.status, reply.error["code"]) == (403, "DENIED")
        assert "WWW-Authenticate" not in reply.headers
        assert "client certificate" in str(reply.error["message"])
        assert reply.body == replies[0].body


async def test_healthz_needs_no_certificate(certified: Guarded) -> None:
    """/healthz is open to every TLS client, for supervisors and probes."""
    assert (await certified.get("/healthz", certified.authority.without_certificate())).status == 200


@pytest.mark.parametrize("name", ["node-1", "node-1.example", "\u00fcnal"])
async def test_common_name_is_the_user(certified: Guarded, name: str) -> None:
    """The access rules and the log use it."""
    tls = certified.authority.client(name)
    assert [(await certified.get(target, tls)).status for target in TARGETS] == [200, 200, 200, 404, 200, 403]
    await certified.mirror.program.until(
        lambda: any(event["user"] == name for event in certified.mirror.events("pull_served"))
    )
    denied = await certified.get("/v2/team/hidden/manifests/v1", tls)
    assert f"user {name!r} may not pull docker.io/team/hidden" in str(denied.error["message"])


@pytest.mark.parametrize("name", ["node*", "*", "[n]ode-1", "Node-1", " node-1", "node-1 "])
async def test_common_name_is_not_a_pattern(certified: Guarded, name: str) -> None:
    """Only rules contain patterns; a common name is compared literally, or refused."""
    assert (await certified.get("/v2/team/app/manifests/v1", certified.authority.client(name))).status == 403


@pytest.mark.parametrize(
    "names",
    [(), ("anonymous",), ("node-1", "node-2"), ("node-1", "node-1"), ("node-1\n",), ("node-1\0",), ("node-1\u202e",)],
    ids=repr,
)
async def test_certificate_without_a_usable_name_is_refused(
    certified: Guarded, cert_or_login: Guarded, names: tuple[str, ...]
) -> None:
    """No common name, two of them, "anonymous", or control characters: 403, or 401 where a login would help."""
    for guarded, status in ((certified, 403), (cert_or_login, 401)):
        tls = guarded.authority.client(*names)
        assert [(await guarded.get(target, tls)).status for target in TARGETS] == [status] * len(TARGETS)


async def test_unverifiable_certificate_ends_the_handshake(certified: Guarded, tmp_path: Path) -> None:
    """A certificate of another authority or an expired one gets no HTTP response."""
    other = Authority(tmp_path)
    authority = certified.authority
    for tls in (other.client("node-1", trusting=authority), authority.client("node-1", ends=timedelta(days=-1))):
        with pytest.raises((aiohttp.ClientError, ConnectionError, ssl.SSLError)):
            await certified.get("/v2/team/app/manifests/v1", tls)


async def test_certificate_or_login_is_accepted(cert_or_login: Guarded) -> None:
    """A certificate without a login, a login without a certificate; with neither, a challenge."""
    target = "/v2/team/app/manifests/v1"
    node, uncertified = cert_or_login.authority.client("node-1"), cert_or_login.authority.without_certificate()
    assert (await cert_or_login.get(target, node)).status == 200
    assert (await cert_or_login.get(target, uncertified, ALICE)).status == 200
    stranger = await cert_or_login.get(target, uncertified)
    assert stranger.status == 401
    assert stranger.headers["WWW-Authenticate"].startswith("Basic ")


async def test_certificate_takes_precedence_over_login(cert_or_login: Guarded) -> None:
    """A client with both is the certificate's user, and its password is not checked."""
    target = "/v2/team/app/manifests/v1"
    for login in (ALICE, basic("alice", "wrong")):
        assert (await cert_or_login.get(target, cert_or_login.authority.client("node-1"), login)).status == 200
        refused = await cert_or_login.get(target, cert_or_login.authority.client("other"), login)
        assert (refused.status, refused.error["code"]) == (403, "DENIED")
        assert "'other'" in str(refused.error["message"])


async def test_user_is_bound_to_the_connection(certified: Guarded) -> None:
    """The certificate of one connection does not affect others, concurrent or later."""
    async with (
        Client.of(certified.mirror.url, tls=certified.authority.client("node-1")) as node,
        Client.of(certified.mirror.url, tls=certified.authority.client("other")) as other,
        Client.of(certified.mirror.url, tls=certified.authority.without_certificate()) as uncertified,
    ):
        for _ in range(3):
            statuses = [(await one.get("/v2/team/app/manifests/v1")).status for one in (node, other, uncertified)]
            assert statuses == [200, 403, 403]
            bases = [(await one.get("/v2/")).status for one in (node, other, uncertified)]
            assert bases == [200, 200, 403]
