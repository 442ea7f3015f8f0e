"""Addresses to which an upstream may send the mirror: private ones only if the upstream is private itself."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest
import pytest_asyncio

from tests.fake.answers import Answer
from tests.fake.cdn import Cdn
from tests.fake.content import Blob
from tests.fake.faults import Header, Redirect
from tests.fake.journal import Seen
from tests.fake.origin import Origin
from tests.fake.registry import Registry
from tests.fake.tokens import Bearer, TokenServer
from tests.http.client import Client, Reply
from tests.http.upstreams import CALM, Upstream, section
from tests.real.mirror import mirror as running_mirror
from tests.real.network import Network, network

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.needs("ip", root=True)]

FAR, NEAR = "203.0.113.10", "10.20.0.1"  # a public address, from the mirror's point of view, and a private one
PLACES = [FAR, "203.0.113.20", NEAR, "127.0.0.1", "::1", "fd00::5", "169.254.169.254", "2002:7f00:1::1"]
INSIDE = ["127.0.0.1", NEAR, "[::1]", "[fd00::5]", "[::ffff:127.0.0.1]", "[2002:7f00:1::1]", "localhost", "127.0.0.1."]
NUMBERS = ["2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "017700000001", "2130706433."]
NEVER = ["169.254.169.254", "0.0.0.0", "0", "[::]", "[::ffff:169.254.169.254]", "2852039166", "0xa9.0xfe.0xa9fe"]


@dataclass(frozen=True, slots=True)
class Scene:
    """A mirror in its own network namespace, with a registry at a public address and one at a private address."""

    client: Client
    far: Upstream
    near: Upstream
    trusted: Upstream  # at a public address, with private_addresses = true
    named: Upstream  # at a name that resolves to private addresses
    inside: dict[str, TokenServer]  # servers that must not be reached, by address; all on one port

    @property
    def port(self) -> int:
        return next(iter(self.inside.values())).port

    async def pull(self, upstream: Upstream) -> tuple[Reply, bytes]:
        """Request a blob that the upstream has; return the reply and the content."""
        blob = upstream.publish_blob(Blob.noise(1000))
        return await self.client.get(upstream.blob(blob)), blob.content

    async def redirected(self, upstream: Upstream, location: str) -> Reply:
        """Return the reply when the upstream redirects the mirror to *location*."""
        upstream.registry.inject(Redirect(location))
        reply, _ = await self.pull(upstream)
        return reply

    def untouched(self) -> bool:
        """Return whether no server inside received a request."""
        return not any(one.journal.entries for one in self.inside.values())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def net() -> AsyncIterator[Network]:
    with network(
        *(f"{place}/{128 if ':' in place else 32}" for place in PLACES if place not in {"127.0.0.1", "::1"})
    ) as net:
        yield net


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(net: Network, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    directory = tmp_path_factory.mktemp("mirror")
    async with contextlib.AsyncExitStack() as exits:
        enter = exits.enter_async_context
        port, inside = 0, {}
        for place in PLACES[2:]:
            listening = net.listening(place, port)
            port = listening.getsockname()[1]
            inside[place] = await enter(TokenServer.running(place, listening=lambda *_, one=listening: one))
        far, near, trusted, named = [
            Upstream(f"{name}.test", await enter(Registry.running(host, listening=net.listening)))
            for name, host in (("far", FAR), ("near", NEAR), ("trusted", FAR), ("named", "127.0.0.1"))
        ]
        config = directory / "mirror.toml"
        config.write_text(
            CALM
            + section(far.name, far.registry.url)
            + section(near.name, near.registry.url)
            + section(trusted.name, trusted.registry.url, "private_addresses = true")
            + section(named.name, f"http://localhost:{named.registry.port}")
        )
        mirror = await enter(running_mirror(directory, "--config", str(config), within=net.command))
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                force_close=True, socket_factory=lambda info: net.socket(info[0], info[1], info[2])
            )
        )
        yield Scene(Client(mirror.url, await enter(session)), far, near, trusted, named, inside)


@pytest.fixture
def scene(stage: Scene) -> Scene:
    """The stage without faults, and with empty journals."""
    for upstream in (stage.far, stage.near, stage.trusted, stage.named):
        upstream.registry.heal()
        upstream.registry.gate = upstream.registry.blobs_at = None
    for one in stage.inside.values():
        one.journal.entries.clear()
    return stage


def refused(reply: Reply, *, host: str) -> str:
    """Check a refusal, which must name the host and not the query; return its message."""
    assert reply.status == 503, reply
    message = str(reply.error["message"])
    assert host.strip("[]").rstrip(".") in message
    assert "secret" not in message
    return message


async def test_redirect_from_public_to_public_address_is_followed(scene: Scene, net: Network) -> None:
    """A registry may keep its blobs in any public store."""
    async with Cdn.running("203.0.113.20", listening=net.listening) as cdn:
        scene.far.registry.blobs_at = cdn
        reply, content = await scene.pull(scene.far)
    assert (reply.status, reply.body) == (200, content), reply
    assert cdn.journal.entries


@pytest.mark.parametrize("host", [*INSIDE, *NUMBERS, *NEVER])
async def test_redirect_from_public_to_private_address_is_refused(scene: Scene, host: str) -> None:
    """Every spelling of the address is refused; the inside servers receive no request."""
    message = refused(await scene.redirected(scene.far, f"http://{host}:{scene.port}/token?sig=secret"), host="")
    assert host in NUMBERS or host.strip("[]").rstrip(".") in message or "::" in host
    assert scene.untouched()


@pytest.mark.parametrize("host", ["127.0.0.1", NEAR, "localhost", "[::1]"])
async def test_redirect_refusal_names_the_setting(scene: Scene, host: str) -> None:
    """The message names private_addresses, for operators that want to allow it."""
    message = refused(await scene.redirected(scene.far, f"http://{host}:{scene.port}/token"), host=host)
    assert 'private_addresses = true in [upstreams."far.test"]' in message


@pytest.mark.parametrize("host", [*INSIDE, *NUMBERS, *NEVER])
async def test_realm_at_a_private_address_is_refused(scene: Scene, host: str) -> None:
    """A realm is an address too, and receives credentials."""
    scene.far.registry.inject(Header("WWW-Authenticate", f'Bearer realm="http://{host}:{scene.port}/token"'))
    scene.far.registry.gate = Bearer(tokens=realm_at(host, scene.port))
    reply, _ = await scene.pull(scene.far)
    assert reply.status in {404, 503}, reply
    assert "far.test" in str(reply.error["message"])
    assert scene.untouched()


@pytest.mark.parametrize("host", ["127.0.0.1", NEAR, "[::1]", "[fd00::5]", "localhost"])
async def test_private_addresses_setting_allows_redirects(scene: Scene, host: str) -> None:
    """private_addresses = true allows loopback and private networks."""
    await scene.redirected(scene.trusted, f"http://{host}:{scene.port}/token")
    assert not scene.untouched()


@pytest.mark.parametrize("host", ["127.0.0.1", NEAR, "[::1]", "[fd00::5]", "localhost"])
async def test_redirect_from_private_to_private_address_is_followed(scene: Scene, host: str) -> None:
    """A registry in a private network has its storage there too."""
    await scene.redirected(scene.near, f"http://{host}:{scene.port}/token")
    assert not scene.untouched()


@pytest.mark.parametrize("host", ["127.0.0.1", NEAR, "localhost"])
async def test_redirect_from_private_name_to_private_address_is_followed(scene: Scene, host: str) -> None:
    """Whether a registry is private is known from the resolution of its name for the first request."""
    await scene.redirected(scene.named, f"http://{host}:{scene.port}/token")
    assert not scene.untouched()


@pytest.mark.parametrize("host", NEVER)
@pytest.mark.parametrize("name", ["near", "trusted", "named"])
async def test_reserved_addresses_are_always_refused(scene: Scene, name: str, host: str) -> None:
    """The cloud's metadata service above all, with any configuration."""
    upstream = {"near": scene.near, "trusted": scene.trusted, "named": scene.named}[name]
    message = refused(await scene.redirected(upstream, f"http://{host}:{scene.port}/latest/meta-data?secret"), host="")
    assert "private_addresses" not in message
    assert scene.untouched()


@pytest.mark.parametrize("login", ["user:secret@", "user@", "@", "203.0.113.20\\@", "203.0.113.20%2f@"])
async def test_userinfo_in_a_redirect_is_refused(scene: Scene, login: str) -> None:
    """Parsers disagree about the host of such a URL, and it would carry credentials of unknown origin."""
    refused(await scene.redirected(scene.trusted, f"http://{login}127.0.0.1:{scene.port}/token"), host="")
    assert scene.untouched()


async def test_refused_redirect_does_not_open_the_breaker(scene: Scene) -> None:
    """The refused redirect of one blob does not affect other requests to the upstream."""
    for _ in range(5):
        await scene.redirected(scene.far, f"http://127.0.0.1:{scene.port}/token")
    scene.far.registry.heal()
    reply, content = await scene.pull(scene.far)
    assert (reply.status, reply.body) == (200, content), reply


class Proxy(Origin):
    """A forward proxy in front of one registry, which redirects."""

    location = ""

    async def respond(self, seen: Seen, body: bytes) -> Answer:
        answer = Answer.whole(b"", 307)
        answer.headers["Location"] = self.location
        return answer


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "169.254.169.254", "[::ffff:10.0.0.1]"])
async def test_literal_addresses_are_checked_behind_a_proxy(
    scene: Scene, net: Network, tmp_path_factory: pytest.TempPathFactory, host: str
) -> None:
    """The proxy resolves names and connects; the mirror still checks literal addresses."""
    directory = tmp_path_factory.mktemp("proxied")
    async with Proxy.running(NEAR, listening=net.listening) as proxy:
        proxy.location = f"http://{host}:{scene.port}/token"
        env = {"http_proxy": proxy.url, "no_proxy": ""}
        options = {"upstreams": {"far.test": "http://registry.test"}, "env": env, "within": net.command}
        async with running_mirror(directory, **options) as mirror:  # type: ignore[arg-type]
            reply = await Client(mirror.url, scene.client._session).get(f"/v2/far.test/a/blobs/sha256:{'0' * 64}")
        assert reply.status == 503, reply
        assert proxy.journal.entries
        assert not [seen for seen in proxy.journal.entries if "registry.test" not in seen.target]


def realm_at(host: str, port: int) -> TokenServer:
    """Return a token service that does not run, for a challenge that names it."""
    tokens = TokenServer()
    tokens.host, tokens.port = host.strip("[]"), port
    return tokens
